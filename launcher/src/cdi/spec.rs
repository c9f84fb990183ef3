//! A CDI file as the Container Device Interface specification has it, versions 0.3.0 to 1.1.0, in JSON or YAML.
//!
//! An unknown field is an error, as the specification wants: it may be one that takes something away.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use super::yaml;

/// Why a file is no CDI file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub(super) String);

/// A file: devices of one kind, and what all of them need.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Spec {
    /// Version of the specification that the file follows.
    #[serde(deserialize_with = "text")]
    pub cdi_version: String,
    /// `vendor.com/class`
    #[serde(deserialize_with = "text")]
    pub kind: String,
    /// For people and programs; nothing here acts on them.
    #[serde(default, deserialize_with = "table", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// At least one.
    #[serde(default, deserialize_with = "list")]
    pub devices: Vec<Device>,
    /// What is done when any of the devices is asked for.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Edits::is_empty")]
    pub container_edits: Edits,
}

/// What can be asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Device {
    /// Within the kind.
    #[serde(deserialize_with = "text")]
    pub name: String,
    /// As in [`Spec`].
    #[serde(default, deserialize_with = "table", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What is done when it is asked for.
    #[serde(default, deserialize_with = "or_default")]
    pub container_edits: Edits,
}

/// Changes to a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Edits {
    /// `NAME=value`
    #[serde(default, deserialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Device nodes.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub device_nodes: Vec<DeviceNode>,
    /// Network interfaces to move into the container; since 1.1.0.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub net_devices: Vec<NetDevice>,
    /// Programs to run at a point of the container's life.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
    /// Files, directories and file systems.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Cache and memory bandwidth; since 0.7.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<IntelRdt>,
    /// Supplementary groups; since 0.7.0. 0 is ignored.
    #[serde(default, rename = "additionalGids", deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
}

/// A device node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DeviceNode {
    /// In the container.
    #[serde(deserialize_with = "text")]
    pub path: String,
    /// On the host, where that is another; since 0.5.0.
    #[serde(default, deserialize_with = "text", skip_serializing_if = "String::is_empty")]
    pub host_path: String,
    /// `b`, `c`, `u` or `p`.
    #[serde(default, rename = "type", deserialize_with = "text", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Major number; 0 is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub major: i64,
    /// Minor number.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub minor: i64,
    /// Permission bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// What a cgroup lets the container do: any of `rwm`, or `none`.
    #[serde(default, deserialize_with = "text", skip_serializing_if = "String::is_empty")]
    pub permissions: String,
    /// Owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// A mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mount {
    /// On the host; for a new file system, its name.
    #[serde(deserialize_with = "text")]
    pub host_path: String,
    /// In the container.
    #[serde(deserialize_with = "text")]
    pub container_path: String,
    /// As for `mount(8)`.
    #[serde(default, deserialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Of the file system; since 0.4.0.
    #[serde(default, rename = "type", deserialize_with = "text", skip_serializing_if = "String::is_empty")]
    pub kind: String,
}

/// A program that another runtime would run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Hook {
    /// When.
    #[serde(deserialize_with = "text")]
    pub hook_name: String,
    /// The program.
    #[serde(deserialize_with = "text")]
    pub path: String,
    /// Its arguments, its own name first.
    #[serde(default, deserialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its environment.
    #[serde(default, deserialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Seconds after which it is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}

/// A class of service of resctrl.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct IntelRdt {
    /// Its name.
    #[serde(default, rename = "closID", deserialize_with = "text", skip_serializing_if = "String::is_empty")]
    pub clos_id: String,
    /// Cache.
    #[serde(default, rename = "l3CacheSchema", deserialize_with = "text", skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema: String,
    /// Memory bandwidth.
    #[serde(default, rename = "memBwSchema", deserialize_with = "text", skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema: String,
    /// Since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schemata: Option<Vec<String>>,
    /// Since 1.1.0.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub enable_monitoring: bool,
    /// Until 1.1.0.
    #[serde(default, rename = "enableCMT", skip_serializing_if = "std::ops::Not::not")]
    pub enable_cmt: bool,
    /// Until 1.1.0.
    #[serde(default, rename = "enableMBM", skip_serializing_if = "std::ops::Not::not")]
    pub enable_mbm: bool,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NetDevice {
    /// Name on the host.
    #[serde(deserialize_with = "text")]
    pub host_interface_name: String,
    /// Name in the container.
    #[serde(deserialize_with = "text")]
    pub name: String,
}

impl Edits {
    /// Whether nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Spec {
    /// Reads a file's content and checks it against the specification.
    ///
    /// # Errors
    /// With the line where that is known, and the field.
    pub fn parse(content: &[u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(content).map_err(|_| Malformed("it is not UTF-8 text".to_owned()))?;
        let spec = read(text)?;
        spec.check()?;
        Ok(spec)
    }

    /// `vendor.com` and `class`.
    #[must_use]
    pub fn vendor_and_class(&self) -> (&str, &str) {
        self.kind.split_once('/').unwrap_or_default()
    }
}

/// JSON is read as such, and as YAML, of which it is a part, if it turns out to be none.
fn read(text: &str) -> Result<Spec, Malformed> {
    if text.trim_start().starts_with('{') {
        match serde_json::from_str(text) {
            Err(error) if error.is_syntax() => {}
            result => return result.map_err(|error| Malformed(error.to_string())),
        }
    }
    let json = yaml::to_json(text).map_err(|error| Malformed(error.to_string()))?;
    serde_json::from_str(&json).map_err(|error| Malformed(without_column(&error)))
}

/// The JSON that comes of YAML has its lines, but not its columns.
fn without_column(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split_once(" column ").map_or(text.clone(), |(before, _)| before.to_owned())
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// `null` is what a Go program, by which these files are usually read, takes for nothing.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Text::deserialize(from).map(|text| text.0)
}

fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let texts: Option<Vec<Text>> = Option::deserialize(from)?;
    Ok(texts.unwrap_or_default().into_iter().map(|text| text.0).collect())
}

fn table<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let table: Option<BTreeMap<String, Text>> = Option::deserialize(from)?;
    Ok(table.unwrap_or_default().into_iter().map(|(name, text)| (name, text.0)).collect())
}

/// A text, for which YAML files often have a bare number: `name: 0`.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct AsText;
        impl Visitor<'_> for AsText {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
            fn visit_bool<E: de::Error>(self, truth: bool) -> Result<Text, E> {
                Ok(Text(truth.to_string()))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Text, E> {
                Ok(Text(String::new()))
            }
        }
        from.deserialize_any(AsText)
    }
}
