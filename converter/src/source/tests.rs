use super::*;

#[test]
fn sources_are_told_by_their_form() {
    let registry = |name: &str| Source::Registry { reference: name.parse().unwrap() };
    let some = |text: &str| Some(text.to_owned());
    for (text, expected) in [
        ("oci:dir", Source::OciLayout { dir: "dir".into(), reference: None }),
        ("oci:/a/dir:v1", Source::OciLayout { dir: "/a/dir".into(), reference: some("v1") }),
        ("oci:d:docker.io/x:3", Source::OciLayout { dir: "d".into(), reference: some("docker.io/x:3") }),
        ("oci:d@sha256:ab", Source::OciLayout { dir: "d".into(), reference: some("sha256:ab") }),
        ("oci-archive:f.tar", Source::OciArchive { file: "f.tar".into(), reference: None }),
        ("oci-archive:f.tar:t", Source::OciArchive { file: "f.tar".into(), reference: some("t") }),
        ("docker-archive:f:a/b:3", Source::DockerArchive { file: "f".into(), reference: some("a/b:3") }),
        ("tar:root:fs.tar.gz", Source::Tar { file: "root:fs.tar.gz".into() }),
        ("docker://docker.io/library/alpine:3", registry("alpine:3")),
        ("oras://r.example/a:1", Source::Artifact { reference: "r.example#a:1".parse().unwrap() }),
        ("dir:/a:b", Source::Directory { dir: "/a:b".into() }),
        ("squashfs:a:b", Source::Squashfs { file: "a:b".into(), offset: 0 }),
    ] {
        let source: Source = text.parse().unwrap();
        assert_eq!(source, expected);
        assert_eq!(source.to_string(), text);
    }
}

#[test]
fn other_texts_are_answered_with_the_forms_there_are() {
    for text in ["", "alpine", "oci:", "oci:dir:", "oci::tag", "docker:alpine", "./dir", "tar:"] {
        let error = text.parse::<Source>().unwrap_err().to_string();
        assert!(error.contains(&format!("{text:?}")) && error.contains("oci:DIR[:TAG]"), "{error}");
    }
}
