//! Finished images as artifacts, and signatures, in the real `docker-registry`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_converter::registry::{ARTIFACT_TYPE, Client};
use coracle_converter::{Options, Source, convert, find_squashfs};
use coracle_tests::fixtures::{corner_image, temp_dir};
use coracle_tests::needs;
use coracle_tests::process::{Finished, coracle, run};
use coracle_tests::registry::{Fault, Proxy, Registry, sign};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const NAME: &str = "team/corner";

macro_rules! registry_needs {
    () => {
        needs!(Coracle, Tool("docker-registry"), Tool("skopeo"), Tool("openssl"), Tool("setpriv"))
    };
}

fn filled() -> Registry {
    let registry = Registry::plain();
    registry.fill(&corner_image(), "latest", &format!("{NAME}:1"), None);
    registry
}

fn build(output: &Path, source: &str) -> Finished {
    run(coracle(["build", "--quiet", "--force"]).arg(output).arg(source))
}

fn push(image: &Path, reference: &str) -> Finished {
    run(coracle(["push"]).arg(image).arg(reference))
}

/// Names in a directory.
fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn registry_a_finished_image_is_pushed_linked_found_and_pulled_as_it_is() {
    registry_needs!();
    let registry = filled();
    let (dir, host) = (temp_dir(), registry.host());
    let image = dir.path().join("image.sqfs");
    let source = format!("docker://{host}/{NAME}:1");
    build(&image, &source).success();
    let bytes = fs::read(&image).unwrap();
    let (_, manifest) = registry.manifest(NAME, "1");

    let refused = push(&image, &format!("oras://{host}/{NAME}:1")).exited(125);
    assert!(refused.stderr.contains("tag 1 is that of a container image"), "{}", refused.stderr);
    assert!(push(&image, &source).exited(125).stderr.contains("oras://"));

    let pushed = push(&image, &format!("oras://{host}/{NAME}:1-sqfs")).success().stdout;
    assert!(pushed.contains("pushed") && pushed.contains(&manifest), "{pushed}");
    let (artifact, digest) = registry.manifest(NAME, "1-sqfs");
    assert_eq!(artifact["artifactType"], ARTIFACT_TYPE);
    assert_eq!(artifact["subject"]["digest"], manifest);
    // This registry keeps no account of referrers, so there is the tag.
    let tag = manifest.replace(':', "-");
    let listed = registry.manifest(NAME, &tag).0;
    assert_eq!(listed["manifests"][0]["digest"], digest);
    assert_eq!(listed["manifests"][0]["artifactType"], ARTIFACT_TYPE);
    let again = push(&image, &format!("oras://{host}/{NAME}@{manifest}")).success().stdout;
    assert!(again.contains("was there"), "{again}");
    assert_eq!(registry.manifest(NAME, &tag).0["manifests"].as_array().unwrap().len(), 1, "listed twice");

    let pulled = dir.path().join("pulled.sqfs");
    build(&pulled, &format!("oras://{host}/{NAME}:1-sqfs")).success();
    assert!(fs::read(&pulled).unwrap() == bytes);
    let useless = run(coracle(["build", "--force", "--compression", "xz"])
        .arg(&pulled)
        .arg(format!("oras://{host}/{NAME}:1-sqfs")));
    assert!(useless.exited(125).stderr.contains("--compression"));
    let wrong = build(&pulled, &format!("oras://{host}/{NAME}:1")).exited(125);
    assert!(wrong.stderr.contains("docker://"), "{}", wrong.stderr);
    let wrong = build(&pulled, &format!("docker://{host}/{NAME}:1-sqfs")).exited(125);
    assert!(wrong.stderr.contains("artifact"), "{}", wrong.stderr);

    let Source::Registry { reference } = source.parse().unwrap() else { panic!("{source} is no registry") };
    let options = Options::default();
    let found = find_squashfs(&reference, &options).unwrap().expect("the linked image is not found");
    assert_eq!(found.manifest.to_string(), digest);
    let output = dir.path().join("found.sqfs");
    let taking = Options { take_finished: true, ..Options::default() };
    let report = convert(&source.parse().unwrap(), &output, &taking, &()).unwrap();
    assert_eq!(report.manifest_digest.unwrap().to_string(), manifest);
    assert!(fs::read(&output).unwrap() == bytes);
    let resolved = Source::Registry { reference }.resolve(&options.registry).unwrap();
    assert_eq!(resolved.unwrap().to_string(), manifest);
}

#[test]
fn registry_a_linked_image_that_was_made_of_another_is_refused() {
    registry_needs!();
    let registry = filled();
    registry.fill(&corner_image(), "gzip", &format!("{NAME}:other"), None);
    let (dir, host) = (temp_dir(), registry.host());
    let image = dir.path().join("image.sqfs");
    build(&image, &format!("docker://{host}/{NAME}:other")).success();
    push(&image, &format!("oras://{host}/{NAME}:sqfs")).success();
    // Somebody claims that it was made of the first.
    let (mut artifact, _) = registry.manifest(NAME, "sqfs");
    let (subject, digest) = registry.manifest(NAME, "1");
    artifact["subject"] = json!({"mediaType": subject["mediaType"], "digest": digest, "size": 1});
    registry.put_manifest(NAME, "forged", &artifact);
    let (forged, forged_digest) = registry.manifest(NAME, "forged");
    let size = forged.to_string().len();
    registry.put_manifest(
        NAME,
        &digest.replace(':', "-"),
        &json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
            {"mediaType": artifact["mediaType"], "digest": forged_digest, "size": size, "artifactType": ARTIFACT_TYPE}]}),
    );
    let source = format!("docker://{host}/{NAME}:1").parse().unwrap();
    let output = dir.path().join("found.sqfs");
    let options = Options { take_finished: true, ..Options::default() };
    let error = convert(&source, &output, &options, &()).unwrap_err().to_string();
    assert!(error.contains("made of another image"), "{error}");
    assert!(!output.exists());
    let error = push(&image, &format!("oras://{host}/{NAME}@{digest}")).exited(125).stderr;
    assert!(error.contains("not made of"), "{error}");
}

#[test]
fn registry_damaged_artifacts_leave_nothing_and_uploads_survive_refusals() {
    registry_needs!();
    let registry = filled();
    let dir = temp_dir();
    let image = dir.path().join("image.sqfs");
    build(&image, &format!("docker://{}/{NAME}:1", registry.host())).success();
    let proxy = Proxy::start(registry.port, |seen| {
        (seen.method == "PATCH" && seen.before == 0).then(|| Fault::Answer(503, Vec::new(), String::new()))
    });
    push(&image, &format!("oras://{}/other/place:1", proxy.host())).success();
    assert!(proxy.seen().iter().filter(|seen| seen.method == "PATCH").count() > 1);

    let flipping = Proxy::start(registry.port, |seen| seen.is_blob().then_some(Fault::Flip));
    let cutting = Proxy::start(registry.port, |seen| (seen.is_blob() && seen.before == 0).then_some(Fault::Cut(5000)));
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let refused = build(&out.join("x.sqfs"), &format!("oras://{}/other/place:1", flipping.host())).exited(125);
    assert!(refused.stderr.contains("is damaged"), "{}", refused.stderr);
    assert!(names(&out).is_empty());
    build(&out.join("x.sqfs"), &format!("oras://{}/other/place:1", cutting.host())).success();
    assert!(fs::read(out.join("x.sqfs")).unwrap() == fs::read(&image).unwrap());

    let text = dir.path().join("text");
    fs::write(&text, "no image").unwrap();
    let refused = push(&text, &format!("oras://{}/other/text:1", registry.host())).exited(125);
    assert!(refused.stderr.contains("neither squashfs nor SIF"), "{}", refused.stderr);
    let content = registry.put_blob("other/text", b"no image", "text/plain");
    let config = registry.put_blob("other/text", b"{}", "application/vnd.oci.empty.v1+json");
    registry.put_manifest("other/text", "1", &manifest(&config, &[content]));
    let refused = build(&out.join("y.sqfs"), &format!("oras://{}/other/text:1", registry.host())).exited(125);
    assert!(refused.stderr.contains("neither squashfs nor SIF"), "{}", refused.stderr);
    assert_eq!(names(&out), ["x.sqfs"]);
}

fn manifest(config: &Value, layers: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers})
}

/// A key pair of openssl; the private and the public file.
fn key(dir: &Path, name: &str, kind: &[&str]) -> (PathBuf, PathBuf) {
    let (private, public) = (dir.join(format!("{name}.key")), dir.join(format!("{name}.pub")));
    run(Command::new("openssl").arg("genpkey").args(kind).arg("-out").arg(&private)).success();
    run(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&private).arg("-out").arg(&public)).success();
    (private, public)
}

/// Signs as `cosign sign --key` does.
fn cosign(registry: &Registry, digest: &str, name: &str, private: &Path, signed: &str) {
    let statement = json!({"critical": {"identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": signed}, "type": "cosign container image signature"}, "optional": null});
    let statement = statement.to_string();
    let mut layer = registry.put_blob(NAME, statement.as_bytes(), "application/vnd.dev.cosign.simplesigning.v1+json");
    layer["annotations"] =
        json!({"dev.cosignproject.cosign/signature": STANDARD.encode(sign(private, statement.as_bytes()))});
    let config = registry.put_blob(NAME, b"{\"rootfs\":{}}", "application/vnd.oci.image.config.v1+json");
    registry.put_manifest(NAME, &format!("{}.sig", digest.replace(':', "-")), &manifest(&config, &[layer]));
}

#[test]
fn registry_images_are_let_in_by_signature_alone_where_the_policy_asks_for_one() {
    registry_needs!();
    let registry = filled();
    let (dir, host) = (temp_dir(), registry.host());
    let ecdsa = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let (mine, my_public) = key(dir.path(), "mine", &ecdsa);
    let (other, _) = key(dir.path(), "other", &ecdsa);
    let (rsa, rsa_public) = key(dir.path(), "rsa", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    let (_, digest) = registry.manifest(NAME, "1");
    let name = format!("{host}/{NAME}");
    let settings = dir.path().join("home/.config/coracle");
    fs::create_dir_all(&settings).unwrap();
    let configure = |rules: &str| fs::write(settings.join("coracle.toml"), rules).unwrap();
    let signed = |keys: &[&Path], more: &str| {
        let keys = keys.iter().map(|key| format!("\"{}\"", key.display())).collect::<Vec<_>>().join(", ");
        configure(&format!("[[registry.signatures]]\nscope = \"{host}/team\"\nkeys = [{keys}]\n{more}"));
    };
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let pull = || {
        let mut command = coracle(["build", "--quiet", "--force"]);
        command.env("HOME", dir.path().join("home")).arg(out.join("x.sqfs")).arg(format!("docker://{name}:1"));
        run(&mut command)
    };
    let refused = |clue: &str| {
        let finished = pull().exited(125);
        assert!(finished.stderr.contains(clue), "\"{clue}\" is not in: {}", finished.stderr);
        assert!(names(&out).is_empty(), "something was left");
    };
    signed(&[&my_public], "");
    refused("it has no cosign signature");
    cosign(&registry, &digest, &name, &other, &digest);
    refused("not signed by any of the keys");
    cosign(&registry, &digest, &name, &mine, &format!("sha256:{}", "0".repeat(64)));
    refused("the signature is for sha256:000");
    cosign(&registry, &digest, "elsewhere.example/x", &mine, &digest);
    refused("elsewhere.example/x");
    signed(&[&my_public], "identity = \"elsewhere.example\"\n");
    pull().success();
    fs::remove_file(out.join("x.sqfs")).unwrap();
    cosign(&registry, &digest, &name, &mine, &digest);
    refused("identity");
    signed(&[&my_public], "");
    pull().success();
    signed(&[&rsa_public, &my_public], "");
    pull().success();
    fs::remove_file(out.join("x.sqfs")).unwrap();
    signed(&[&rsa_public], "");
    refused("not signed by any of the keys");
    cosign(&registry, &digest, &name, &rsa, &digest);
    pull().success();
    fs::remove_file(out.join("x.sqfs")).unwrap();
    configure("[[registry.signatures]]\nscope = \"*\"\npolicy = \"reject\"\n");
    refused("not allowed here");
    configure(&format!(
        "[[registry.signatures]]\nscope = \"*\"\npolicy = \"reject\"\n[[registry.signatures]]\nscope = \"{host}\"\npolicy = \"accept\"\n"
    ));
    pull().success();
    signed(&[Path::new("/nonexistent/key.pub")], "");
    assert!(pull().exited(125).stderr.contains("/nonexistent/key.pub"));
}

#[test]
fn registry_where_signatures_are_asked_for_a_finished_image_needs_its_own() {
    registry_needs!();
    let registry = filled();
    let (dir, host) = (temp_dir(), registry.host());
    let (private, public) = key(dir.path(), "mine", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let (_, digest) = registry.manifest(NAME, "1");
    let name = format!("{host}/{NAME}");
    cosign(&registry, &digest, &name, &private, &digest);
    let image = dir.path().join("image.sqfs");
    build(&image, &format!("docker://{name}:1")).success();
    push(&image, &format!("oras://{name}:sqfs")).success();
    let requirement = coracle_converter::registry::Requirement::Signed { keys: vec![public], identity: None };
    let rule = coracle_converter::registry::Rule { scope: host, requirement };
    let mut settings = coracle_converter::registry::Settings::default();
    settings.policies.push(coracle_converter::registry::Policy { rules: vec![rule] });
    let options = Options { registry: Arc::new(Client::new(settings)), ..Options::default() };
    let reference = format!("{name}:1").parse().unwrap();
    assert_eq!(find_squashfs(&reference, &options).unwrap(), None, "anybody could have pushed it");
    let (_, artifact) = registry.manifest(NAME, "sqfs");
    cosign(&registry, &artifact, &name, &private, &artifact);
    assert!(find_squashfs(&reference, &options).unwrap().is_some());
}
