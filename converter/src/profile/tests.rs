//! The format: what is written is read, and what is wrong is said.

use super::*;

fn touched(path: &[u8], blocks: &[u32]) -> Touched {
    Touched { path: path.to_vec(), blocks: blocks.to_vec() }
}

fn refusal(json: &str) -> String {
    let problem = Profile::from_json(json.as_bytes()).unwrap_err();
    let cause = std::error::Error::source(&problem).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{problem}{cause}")
}

#[test]
fn what_is_written_is_read_again() {
    let profile = Profile {
        command: vec!["python3".into(), "-c".into(), "print('100%\u{e9}\n')".into()],
        image: Some(ProfiledImage { size: 1 << 40, mkfs_time: Some(7) }),
        touched: vec![
            touched(b"/usr/bin/python3.11", &[3, 0, 1]),
            touched(b"/odd/\xff\xc3\x28 100%\n\"\\", &[]),
            touched("/h\u{e9}/%25".as_bytes(), &[u32::MAX]),
        ],
    };
    let json = profile.to_json().unwrap();
    assert_eq!(Profile::from_json(&json).unwrap(), profile);
    assert!(String::from_utf8(json).unwrap().contains(r#"{"path":"/odd/%FF%C3( 100%25\n\"\\"}"#));
    let empty = Profile::default();
    assert_eq!(Profile::from_json(&empty.to_json().unwrap()).unwrap(), empty);
}

#[test]
fn the_form_is_pinned() {
    let profile = Profile {
        command: vec!["true".into()],
        image: Some(ProfiledImage { size: 4096, mkfs_time: None }),
        touched: vec![touched(b"/bin/true", &[0, 7]), touched(b"/etc/x", &[])],
    };
    let form = r#"{"version":1,"command":["true"],"image":{"size":4096},"touched":[
{"path":"/bin/true","blocks":[0,7]},
{"path":"/etc/x"}
]}
"#;
    assert_eq!(String::from_utf8(profile.to_json().unwrap()).unwrap(), form);
    let least = Profile::from_json(br#"{"version":1,"touched":[{"path":"/%e9%41"}]}"#).unwrap();
    assert_eq!(least.touched, [touched(b"/\xe9A", &[])]);
}

#[test]
fn what_is_wrong_is_said() {
    let list = |entries: &str| refusal(&format!(r#"{{"version":1,"touched":[{entries}]}}"#));
    for (path, reason) in [
        ("usr/bin", "not absolute"),
        ("", "not absolute"),
        ("/", "empty component"),
        ("/a//b", "empty component"),
        ("/a/../../etc/shadow", "`..`"),
        ("/a/.", "`.`"),
        ("/a/%2e%2E/b", "`..`"),
        ("/a%00", "zero byte"),
        ("/100%", "two hexadecimal digits"),
        ("/%+1", "two hexadecimal digits"),
        ("/%é", "two hexadecimal digits"),
    ] {
        let said = list(&format!(r#"{{"path":"/first"}},{{"path":"{path}"}}"#));
        assert!(said.contains(reason) && said.starts_with("file 2 of its list"), "{path}: {said}");
    }
    assert!(list(&format!(r#"{{"path":"/{}"}}"#, "x/".repeat(9000))).contains("too long"));
    assert!(
        list(r#"{"path":"/a"},{"path":"/b"},{"path":"/%61"}"#).contains("file 3 of its list, \"/a\": it is listed")
    );
    assert!(list(r#"{"path":"/a","blocks":[1,2,1]}"#).contains("block 1 is listed twice"));
    assert!(list(r#"{"path":"/a","blocks":[-1]}"#).contains("-1"));
    assert!(list(r#"{"path":"/a","size":1}"#).contains("unknown field `size`"));
    assert!(refusal(r#"{"version":1,"touched":[],"hot":[]}"#).contains("unknown field `hot`"));
    assert!(refusal(r#"{"version":1}"#).contains("missing field `touched`"));
    assert!(refusal(r#"{"version":2,"new":[]}"#).contains("version 2, this program knows 1"));
    assert!(refusal("squashfs").contains("no profile"));
    assert!(refusal(&" ".repeat(SIZE_MAX as usize + 1)).contains("more than 16777216 bytes"));
}

#[test]
fn what_could_not_be_read_again_is_not_written() {
    let double = Profile { touched: vec![touched(b"/a", &[]), touched(b"/a", &[])], ..Profile::default() };
    assert!(matches!(double.to_json(), Err(Problem::Path { number: 2, .. })));
    let long = Profile { command: vec!["x".repeat(SIZE_MAX as usize)], ..Profile::default() };
    assert!(matches!(long.to_json(), Err(Problem::Size)));
}

#[test]
fn a_file_is_bounded_and_named_in_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.json");
    let said = |path: &Path| ProfileFile::load(path).unwrap_err().to_string();
    assert!(said(&path).contains("p.json"));
    std::fs::write(&path, "{}").unwrap();
    assert!(said(&path).contains("p.json"));
    // Endless.
    assert!(matches!(ProfileFile::load(Path::new("/dev/zero")), Err(Error::Profile { source: Problem::Size, .. })));
    let bytes = b"{ \"version\": 1, \"touched\": [] }";
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(ProfileFile::load(&path).unwrap().bytes(), bytes);
}
