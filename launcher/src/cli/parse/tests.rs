use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use coracle_squashfs::compress::Compression;

use super::*;
use crate::options::{Bind, BindSource, DefaultMount, EnvSetting, Home, Layer};

fn bind_of(source: &str, destination: Option<&str>, read_only: bool) -> Bind {
    let options = if read_only { vec!["ro".to_owned()] } else { Vec::new() };
    Bind { options, ..Bind::of_host(source, destination.map(PathBuf::from)) }
}

fn raw_source() -> OsString {
    OsString::from_vec(b"/\xff".to_vec())
}

#[test]
fn mounts_are_read_by_keys() {
    let parse = |value: &str| mount(OsStr::new(value));
    let bind = parse("type=bind,\"source=/a,b\",dst=/c,ro,bind-propagation=rslave").unwrap();
    assert_eq!(bind.source, BindSource::Host("/a,b".into()));
    assert_eq!((bind.destination, bind.options), (Some("/c".into()), vec!["ro".into(), "rslave".into()]));
    let tmpfs = parse("type=tmpfs,target=/t,tmpfs-size=1M").unwrap();
    assert_eq!(tmpfs.source, BindSource::Empty { size: Some(1 << 20) });
    for bad in [
        "source=/a",
        "type=bind,dst=/b",
        "type=tmpfs",
        "type=bind,src=/a,x=1",
        "type=volume,src=a,dst=/b",
        "type=bind,src=/a,dst=/",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn gpus_are_chosen() {
    let choose = |words: &[&str]| {
        let mut asked = Gpu::default();
        words.iter().try_for_each(|word| gpu(OsStr::new(word), &mut asked)).map(|()| asked)
    };
    assert_eq!(choose(&["auto"]), Ok(Gpu::auto()));
    assert_eq!(choose(&["auto", "off"]).unwrap().over(Gpu::auto()).asked.len(), 0, "a profile has no say");
    assert_eq!(choose(&["intel"]).unwrap().over(Gpu::auto()).asked.len(), 3);
    let strict = choose(&["nvidia,auto"]).unwrap();
    assert_eq!((strict.asked[&Vendor::Nvidia], strict.asked[&Vendor::Amd]), (Missing::Fail, Missing::Silent));
    assert!(choose(&["all"]).unwrap_err().to_string().contains("--device"));
}

#[test]
fn devices_overlays_names_and_capabilities() {
    assert_eq!(device(OsStr::new("/dev/fuse")).unwrap(), Bind::of_host("/dev/fuse", None));
    assert_eq!(device(OsStr::new("/dev/a:/dev/b:rw")).unwrap(), Bind::of_host("/dev/a", Some("/dev/b".into())));
    assert!(device(OsStr::new("fuse")).unwrap_err().to_string().contains("CDI"));
    let names = cdi_devices(OsStr::new("nvidia.com/gpu=0,nvidia.com/gpu=1")).unwrap().unwrap();
    assert_eq!(names.iter().map(ToString::to_string).collect::<Vec<_>>(), ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]);
    assert!(cdi_devices(OsStr::new("/dev/a=b")).unwrap().is_none());
    assert!(cdi_devices(OsStr::new("gpu=0")).unwrap_err().to_string().contains("vendor.com/class=name"));
    assert_eq!(annotation(OsStr::new("a/b=c=d")).unwrap(), ("a/b".to_owned(), "c=d".to_owned()));
    assert!(annotation(OsStr::new("org.coracle.link./x=y")).is_err() && annotation(OsStr::new("x")).is_err());
    let layer = |path: &str, read_only| Layer::At { path: path.into(), read_only };
    assert_eq!(overlay(OsStr::new("a:ro")).unwrap(), layer("a", true));
    assert_eq!(overlay(OsStr::new("a")).unwrap(), layer("a", false));
    assert!(overlay(OsStr::new("a:x")).is_err() && overlay(OsStr::new("")).is_err());
    assert_eq!(capabilities("net_raw,CAP_CHOWN,all").unwrap(), ["CAP_NET_RAW", "CAP_CHOWN", "ALL"]);
    assert!(capabilities("nonsense").is_err() && hostname("a b").is_err() && hostname("").is_err());
    assert!(addresses("192.0.2.1,x").is_err() && security(OsStr::new("selinux:x")).is_err());
    assert!(scratch(OsStr::new("/a,b")).is_err() && scratch(OsStr::new("/")).is_err());
}

fn set(name: &str, value: &str) -> EnvSetting {
    EnvSetting::Set(name.into(), value.into())
}

#[test]
fn binds_are_split_as_apptainer_splits_them() {
    assert_eq!(binds(OsStr::new("/a")).unwrap(), [bind_of("/a", None, false)]);
    assert_eq!(
        binds(OsStr::new("/a:/b:ro,c:/d:rw,/e::ro")).unwrap(),
        [
            bind_of("/a", Some("/b"), true),
            Bind { options: vec!["rw".into()], ..bind_of("c", Some("/d"), false) },
            bind_of("/e", None, true)
        ]
    );
    assert_eq!(binds(OsStr::new(r"/a\:b\,c:/d")).unwrap(), [bind_of("/a:b,c", Some("/d"), false)]);
    assert_eq!(binds(OsStr::new(r"/a\x:/d")).unwrap(), [bind_of(r"/a\x", Some("/d"), false)]);
    let raw = OsString::from_vec(b"/\xff:/d".to_vec());
    assert_eq!(binds(&raw).unwrap()[0].source, BindSource::Host(PathBuf::from(raw_source())));
    let words = |bind: &Bind| bind.options.join(" ");
    let parsed = binds(OsStr::new("/a:/b:ro,nosuid,/c:/d,x.sqfs:/e:image-src=/f,ro")).unwrap();
    assert_eq!(parsed.iter().map(words).collect::<Vec<_>>(), ["ro nosuid", "", "ro"]);
    assert_eq!(parsed[2].source, BindSource::Image { file: "x.sqfs".into(), inside: "/f".into() });
}

#[test]
fn bad_binds_name_the_bad_part() {
    let text = |value: &str| binds(OsStr::new(value)).unwrap_err().to_string();
    assert_eq!(text(""), "bind \"\" names no source: write SOURCE[:DESTINATION[:ro|rw]]");
    assert_eq!(text("/a:b"), "bind \"/a:b\" has the destination \"b\": write an absolute path");
    assert!(text("/a:/b:rx").starts_with("bind \"/a:/b:rx\" has the unknown option \"rx\": use ro, rw"));
    assert!(text("/a:/").contains("cover the whole image"));
    assert!(text("/").contains("cover the whole image"));
}

#[test]
fn a_comma_starts_a_setting_only_before_a_name() {
    assert_eq!(env(OsStr::new("A=1,B_2=x y")).unwrap(), [set("A", "1"), set("B_2", "x y")]);
    assert_eq!(env(OsStr::new("UCX_TLS=rc,self")).unwrap(), [set("UCX_TLS", "rc,self")]);
    assert_eq!(env(OsStr::new("A=1,,b=c=d")).unwrap(), [set("A", "1,"), set("b", "c=d")]);
    assert_eq!(env(OsStr::new("A=")).unwrap(), [set("A", "")]);
    assert_eq!(env(OsStr::new("A")).unwrap(), [EnvSetting::Inherit("A".into())]);
    assert!(env(OsStr::new("=x")).is_err());
    assert!(env(OsStr::new("a b=x")).is_err());
}

#[test]
fn env_files_take_quotes_and_export() {
    let file = b"# note\n\nexport A=1\nB=\"x y\"\nC='z'\n D = 1\nE=a=b\nF";
    assert_eq!(env_file(file), Err(6), "a space in a name is an error");
    let file = b"# note\n\nexport A=1\nB=\"x y\"\r\nC='z'\nE=a=b\nF";
    let expected = [set("A", "1"), set("B", "x y"), set("C", "z"), set("E", "a=b"), EnvSetting::Inherit("F".into())];
    assert_eq!(env_file(file).unwrap(), expected);
}

#[test]
fn compressions_and_block_sizes() {
    assert_eq!(compression("zstd:19"), Ok(Compression::Zstd { level: 19 }));
    assert!(matches!(compression("zstd"), Ok(Compression::Zstd { .. })));
    assert_eq!(compression("gzip"), Ok(Compression::Gzip { level: 9 }));
    assert_eq!(compression("xz"), Ok(Compression::Xz));
    for bad in ["zstd:0", "zstd:23", "gzip:10", "lz4:1", "lzo", "", "zstd:", "zstd:x"] {
        assert_eq!(compression(bad), Err(Error::Compression), "{bad}");
    }
    assert_eq!((block_size("4096"), block_size("128K"), block_size("1m")), (Ok(4096), Ok(1 << 17), Ok(1 << 20)));
    for bad in ["2K", "2M", "100000", "", "K", "-4K", "4194304K"] {
        assert_eq!(block_size(bad), Err(Error::BlockSize), "{bad}");
    }
}

#[test]
fn homes_and_mount_lists() {
    let at = |source: &str, destination: Option<&str>| Home::At {
        source: source.into(),
        destination: destination.map(PathBuf::from),
    };
    assert_eq!(home(OsStr::new("/x")).unwrap(), at("/x", None));
    assert_eq!(home(OsStr::new("x:/home/y")).unwrap(), at("x", Some("/home/y")));
    assert!(home(OsStr::new("/x:y")).is_err());
    assert!(home(OsStr::new("/")).is_err());
    assert_eq!(
        no_mount(OsStr::new("home,tmp,/etc/hosts,hostfs")).unwrap(),
        [DefaultMount::Home, DefaultMount::Tmp, DefaultMount::Path("/etc/hosts".into())]
    );
    assert!(no_mount(OsStr::new("homes")).unwrap_err().to_string().contains("\"homes\""));
}
