//! Environment definition files in a directory made up for them.

use std::fs;

use super::*;

struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
            fs::write(dir.path().join(name), text).unwrap();
        }
        Self(dir)
    }

    fn value(&self, name: &str) -> Option<OsString> {
        let at = |name: &str| Some(self.0.path().join(name).into_os_string());
        match name {
            "EDF_PATH" => at("edf"),
            "HOME" => at("home"),
            "D" => at(""),
            "USER" => Some("ada".into()),
            _ => None,
        }
    }

    fn read(&self, name: &str) -> Result<Environment, String> {
        let value = |name: &str| self.value(name);
        read(&self.0.path().join(name), &value).map_err(|error| error.to_string())
    }
}

#[test]
fn all_keys_are_understood() {
    let text = "image = \"nvcr.io#nvidia/pytorch:24.01-py3\"\nworkdir = \"/work/${USER}\"\nentrypoint = false\nwritable = true\n\
                mounts = [\"/scratch/${USER}:/scratch\", \"/d.sqsh:/d:sqsh\", \"/a:/b:ro+private+x-create=dir\", \"tmpfs:/t:size=1G+noexec\"]\n\
                devices = [\"/dev/fuse\"]\n[env]\nA = \"${USER}x\"\nGONE = \"\"\n\
                [annotations]\ncom.hooks.ssh.enabled = \"true\"\ncom.hooks.cxi.enabled = \"false\"\nx.number = 3\n\
                [annotations.com.hooks.aws_ofi_nccl]\nenabled = \"true\"\nvariant = \"${USER}\"\n";
    let environment = Files::new(&[("e.toml", text)]).read("e.toml").unwrap();
    assert_eq!(environment.image, Path::new("docker://nvcr.io#nvidia/pytorch:24.01-py3"));
    assert_eq!((environment.entrypoint, environment.writable), (false, Some(true)));
    let options = environment.options;
    assert_eq!(options.working_dir, Some("/work/ada".into()));
    assert_eq!(options.binds.len(), 5);
    assert_eq!(options.binds[0], Bind::of_host("/scratch/ada", Some("/scratch".into())));
    assert_eq!(options.binds[1].source, BindSource::Image { file: "/d.sqsh".into(), inside: "/".into() });
    assert_eq!(options.binds[2].options, ["ro", "private"]);
    assert_eq!(options.binds[3].source, BindSource::Empty { size: Some(1 << 30) });
    assert_eq!(options.binds[4], Bind::of_host("/dev/fuse", None));
    assert!(
        matches!(&options.early_env[0], EnvSetting::Expand { name, text, .. } if name == "A" && text == "${USER}x")
    );
    assert_eq!(options.early_env[1], EnvSetting::Unset("GONE".into()));
    assert_eq!(options.annotations["com.hooks.aws_ofi_nccl.variant"], "ada");
    assert_eq!(options.annotations["x.number"], "3");
    let warning = environment.warning.unwrap();
    assert!(warning.contains("not supported yet: aws_ofi_nccl, ssh; starting without"), "{warning}");
}

#[test]
fn images_are_references_or_files() {
    let image = |text: &str| {
        let files = Files::new(&[("e.toml", &format!("image = \"{text}\""))]);
        files.read("e.toml").map(|environment| environment.image.display().to_string())
    };
    assert_eq!(image("library/ubuntu:24.04").unwrap(), "docker://library/ubuntu:24.04");
    assert_eq!(image("/i/${USER}.sqsh").unwrap(), "/i/ada.sqsh");
    assert_eq!(image("oci:///x").unwrap(), "oci:///x");
    assert_eq!(image("x.sqsh").unwrap(), "x.sqsh");
    assert!(image("./x.sqsh").unwrap().starts_with('/'));
    assert!(image("~/x.sqsh").unwrap_err().contains("line 1: ~/x.sqsh: write ${HOME} for ~"));
}

#[test]
fn environments_build_on_others() {
    let files = Files::new(&[
        ("edf/base.toml", "image = \"base\"\nmounts = [\"/a:/a\"]\n[env]\nA = \"base\"\nB = \"base\"\n"),
        ("home/.edf/own.toml", "workdir = \"/own\"\nmounts = [\"/a:/a\", \"/b:/b\"]\n"),
        ("top.toml", "base_environment = [\"base\", \"own\"]\n[env]\nA = \"top\"\n"),
        ("one.toml", "base_environment = \"${D}/top.toml\"\nimage = \"one\"\n"),
        ("twice.toml", "base_environment = [\"base\", \"base\"]\n"),
        ("a.toml", "image = \"x\"\nbase_environment = \"${D}/b.toml\"\n"),
        ("b.toml", "base_environment = \"${D}/a.toml\"\n"),
        ("lost.toml", "\nbase_environment = \"nowhere\"\n"),
        ("none.toml", "workdir = \"/x\"\n"),
    ]);
    let one = files.read("one.toml").unwrap();
    assert_eq!(one.image, Path::new("docker://one"));
    assert_eq!(one.options.working_dir, Some("/own".into()));
    assert_eq!(one.options.binds.len(), 2);
    let texts = one.options.early_env.iter().map(|setting| match setting {
        EnvSetting::Expand { text, .. } => text.as_str(),
        other => panic!("{other:?}"),
    });
    assert_eq!(texts.collect::<Vec<_>>(), ["top", "base"]);
    files.read("twice.toml").unwrap();
    let cycle = files.read("a.toml").unwrap_err();
    assert!(cycle.contains("b.toml: line 1") && cycle.contains("a.toml builds on itself"), "{cycle}");
    let lost = files.read("lost.toml").unwrap_err();
    assert!(lost.contains("line 2") && lost.contains("no nowhere.toml in") && lost.contains("home/.edf"), "{lost}");
    assert!(files.read("none.toml").unwrap_err().contains("names no image"));
    let many: Vec<_> = (0..11)
        .map(|n| (format!("{n}.toml"), format!("image = \"x\"\nbase_environment = \"${{D}}/{}.toml\"", n + 1)))
        .collect();
    let mut many: Vec<_> = many.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    many.push(("11.toml", ""));
    let files = Files::new(&many);
    assert!(files.read("0.toml").unwrap_err().contains("more than 10"));
    files.read("2.toml").unwrap();
}

#[test]
fn names_are_looked_for_in_their_order() {
    let files = Files::new(&[
        ("edf/x.toml", ""),
        ("home/.edf/x.toml", ""),
        ("home/.edf/y.toml", ""),
        ("z.toml", ""),
        ("i.toml", "hsqs1234"),
    ]);
    let value = |name: &str| files.value(name);
    let at = |word: &str| {
        locate(Path::new(word), &value)
            .map(|path| path.map(|path| path.strip_prefix(files.0.path()).unwrap().display().to_string()))
    };
    assert_eq!(at("edf://x").unwrap().as_deref(), Some("edf/x.toml"));
    assert_eq!(at("edf://y").unwrap().as_deref(), Some("home/.edf/y.toml"));
    assert!(at("edf://../../z").unwrap_err().to_string().contains("cannot find environment ../../z"));
    let word = |name: &str| files.0.path().join(name).display().to_string();
    assert_eq!(at(&word("z.toml")).unwrap().as_deref(), Some("z.toml"));
    assert_eq!(at(&word("i.toml")).unwrap(), None, "an image, whatever its name");
    assert_eq!(at(&word("absent.toml")).unwrap().as_deref(), Some("absent.toml"));
    assert_eq!(at("x").unwrap(), None);
}

#[test]
fn mistakes_have_their_line() {
    for (text, line, part) in [
        ("image = \"x\"\nimages = \"y\"", 2, "unknown key images"),
        ("image = 3", 1, "image is a text"),
        ("image = \"x\"\nwritable = \"true\"", 2, "writable is true or false"),
        ("image = \"x\"\nmounts = [\n\"/a:/b\",\n\"/c\"]", 4, "SOURCE:DESTINATION"),
        ("image = \"x\"\nmounts = [\"/a:/b:shared\"]", 2, "flag \"shared\""),
        ("image = \"x\"\nmounts = [\"/a:b\"]", 2, "absolute path"),
        ("image = \"x\"\nmounts = [\"/a:/\"]", 2, "whole image"),
        ("image = \"x\"\nmounts = [\"${NO}:/b\"]", 2, "variable NO is not set"),
        ("image = \"x\"\nworkdir = \"$(pwd)\"", 2, "begins no variable"),
        ("image = \"x\"\ndevices = [\"nvidia.com/gpu=all\"]", 2, "CDI"),
        ("image = \"x\"\n[env]\nA = 1", 3, "A is a text"),
        ("image = \"x\"\n[env]\n\"A B\" = \"1\"", 3, "no name of a variable"),
        ("image = \"x\"\n[annotations]\norg.coracle.image = \"1\"", 3, "not a file's to set"),
        ("image = \"x\"\n[annotations]\na = [\"1\"]", 3, "a is a text"),
        ("image = \"x\"\n[env\nA = 1", 2, ""),
    ] {
        let error = Files::new(&[("e.toml", text)]).read("e.toml").unwrap_err();
        assert!(error.contains(&format!("e.toml: line {line}: ")) && error.contains(part), "{text}: {error}");
    }
}
