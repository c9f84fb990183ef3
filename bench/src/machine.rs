//! What the figures were measured on and with.

use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Machine and tools.
#[derive(Debug, Serialize)]
pub struct Machine {
    cpu: String,
    cores: usize,
    memory_gib: u64,
    kernel: String,
    system: String,
    kernel_squashfs: Vec<String>,
    tools: BTreeMap<String, String>,
}

/// Where each peer's version is, for those that are Debian packages.
const PACKAGES: [&str; 5] = ["squashfs-tools", "squashfs-tools-ng", "squashfuse", "charliecloud", "umoci"];

impl Machine {
    /// Reads it all.
    pub fn look(coracle: &Path) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
        let value = |text: &str, key: &str, separator: char| {
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_once(separator).map_or(String::new(), |(_, value)| value.trim().trim_matches('"').to_owned())
        };
        let memory = value(&read("/proc/meminfo")?, "MemTotal", ':');
        let kib: u64 = memory.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        let mut tools = BTreeMap::from([("coracle".to_owned(), first_line(Command::new(coracle).arg("--version")))]);
        for package in PACKAGES {
            let version = first_line(Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]));
            tools.insert(package.to_owned(), version);
        }
        let config = first_lines(Command::new("zcat").arg("/proc/config.gz"));
        let chosen =
            |line: &&str| line.starts_with("CONFIG_SQUASHFS_DECOMP") || line.starts_with("CONFIG_SQUASHFS_FILE");
        Ok(Self {
            cpu: value(&read("/proc/cpuinfo")?, "model name", ':'),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_gib: kib.div_ceil(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            system: value(&read("/etc/os-release")?, "PRETTY_NAME", '='),
            kernel_squashfs: config
                .lines()
                .filter(chosen)
                .map(|line| line.trim_start_matches("CONFIG_").to_owned())
                .collect(),
            tools,
        })
    }

    /// As a paragraph of the page.
    pub fn describe(&self) -> String {
        let tools: Vec<_> = self
            .tools
            .iter()
            .map(|(name, version)| match version.strip_prefix(name) {
                Some(rest) => format!("{name}{rest}"),
                None => format!("{name} {version}"),
            })
            .collect();
        format!(
            "{}, {} cores, {} GiB; {}, kernel {} ({}); {}.",
            self.cpu,
            self.cores,
            self.memory_gib,
            self.system,
            self.kernel,
            self.kernel_squashfs.join(" "),
            tools.join(", ")
        )
    }
}

fn first_lines(command: &mut Command) -> String {
    command.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

fn first_line(command: &mut Command) -> String {
    first_lines(command).lines().next().unwrap_or("not installed").to_owned()
}
