//! The registry client against the real `docker-registry`, with a proxy in between that does what networks do.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use coracle_tests::fixtures::{corner_image, corner_squashfs, temp_dir};
use coracle_tests::layout::{Layout, Tar};
use coracle_tests::needs;
use coracle_tests::process::{Finished, coracle_binary, run, run_with_input};
use coracle_tests::registry::{Fault, Proxy, Registry, Seen, TokenServer, authority, htpasswd};
use coracle_tests::tree::{Tree, assert_same};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

const NAME: &str = "test/corner";
const LOGIN: &str = "user:pass:word";

/// A user with a home, a directory for images, and one for blobs.
struct User {
    dir: tempfile::TempDir,
}

impl User {
    fn new() -> Self {
        let dir = temp_dir();
        for name in ["home", "out"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, text: &str) {
        let dir = self.path("home/.config/coracle");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("coracle.toml"), text).unwrap();
    }

    fn coracle<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(coracle_binary().unwrap());
        command.args(words).env_clear().env("HOME", self.path("home")).env("PATH", self.path("bin"));
        command
    }

    /// Builds `out/image.sqfs` from a source.
    fn build(&self, source: &str, options: &[&str]) -> Finished {
        let mut command = self.coracle(["build", "--quiet", "--force"]);
        run(command.args(options).arg(self.path("out/image.sqfs")).arg(source))
    }

    fn built(&self, source: &str, options: &[&str]) -> Vec<u8> {
        self.build(source, options).success();
        fs::read(self.path("out/image.sqfs")).unwrap()
    }

    /// A build that fails, says each of the clues, and leaves nothing.
    #[track_caller]
    fn refused(&self, source: &str, options: &[&str], clues: &[&str]) -> String {
        let finished = self.build(source, options).exited(125);
        for clue in clues {
            assert!(finished.stderr.contains(clue), "{source}: \"{clue}\" is not in: {}", finished.stderr);
        }
        assert_eq!(fs::read_dir(self.path("out")).unwrap().count(), 0, "something was left");
        finished.stderr
    }

    fn cached(&self) -> Vec<String> {
        let dir = self.path("blobs/blobs/sha256");
        let mut names = fs::read_dir(dir)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect::<Vec<_>>();
        names.sort();
        names
    }
}

/// The corner image as its registry has it: what a build of it must give.
fn expected(host: &str) -> Vec<u8> {
    let user = User::new();
    let layout = Layout::copy_of(&corner_image(), "latest", &user.path("layout"));
    let index = layout.path.join("index.json");
    let mut parsed: serde_json::Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    // The name is a part of the image, and nothing else differs.
    parsed["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] = format!("{host}/{NAME}:1").into();
    fs::write(&index, parsed.to_string()).unwrap();
    user.built(&layout.source(), &[])
}

/// One that lets in nobody but [`LOGIN`], and the directory with its password file.
fn filled_for_one() -> (tempfile::TempDir, Registry) {
    let dir = temp_dir();
    let (name, password) = LOGIN.split_once(':').unwrap();
    let registry = Registry::start(&htpasswd(dir.path(), name, password));
    registry.fill(&corner_image(), "latest", &format!("{NAME}:1"), Some(LOGIN));
    (dir, registry)
}

fn filled() -> Registry {
    let registry = Registry::plain();
    registry.fill(&corner_image(), "latest", &format!("{NAME}:1"), None);
    registry
}

/// The path of a file as an option.
fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

macro_rules! registry_needs {
    () => {
        needs!(Coracle, Tool("docker-registry"), Tool("skopeo"), Tool("openssl"), Tool("setpriv"))
    };
}

#[test]
fn registry_the_same_manifest_gives_the_same_bytes_from_a_layout_a_registry_and_a_cache() {
    registry_needs!();
    let registry = filled();
    let (user, host) = (User::new(), registry.host());
    let expected = expected(&host);
    let source = format!("docker://{host}/{NAME}:1");
    assert!(user.built(&source, &[]) == expected, "streamed");
    let cache = user.path("blobs");
    let options = ["--blob-cache", text(&cache)];
    assert!(user.built(&source, &options) == expected, "through an empty cache");
    let names = user.cached();
    assert!(names.len() >= 3 && names.iter().all(|name| name.len() == 64), "{names:?}");
    // Without the registry's blobs, only the cache can have them.
    let proxy = Proxy::start(registry.port, |seen| {
        seen.is_blob().then(|| Fault::Answer(404, Vec::new(), String::new())).filter(|_| !seen.path.contains("none"))
    });
    user.refused_or_config(&proxy, &options);
    assert!(user.built(&format!("docker://{host}#{NAME}:1"), &options) == expected, "as pyxis writes names");
    let tree = Tree::of_image(&user.path("out/image.sqfs")).without(&["/.coracle"]);
    assert_same("registry and layout", &Tree::of_image(&corner_squashfs()).without(&["/.coracle"]), &tree, &[]);
    let (_, digest) = registry.manifest(NAME, "1");
    let info = run(user.coracle(["inspect", "--json"]).arg(user.path("out/image.sqfs"))).success().stdout;
    assert!(info.contains(&digest) && info.contains(&format!("{host}/{NAME}:1")), "{info}");
    user.built(&format!("docker://{host}/{NAME}@{digest}"), &[]);
    let other = format!("docker://{host}/{NAME}@sha256:{}", "0".repeat(64));
    fs::remove_file(user.path("out/image.sqfs")).unwrap();
    user.refused(&other, &[], &["no such image or tag"]);
    user.refused(&format!("docker://{host}/{NAME}:none"), &[], &["no such image or tag", "none"]);
}

impl User {
    /// Layers come from the cache when the registry has none; its config is not a layer, and is asked for.
    fn refused_or_config(&self, proxy: &Proxy, options: &[&str]) {
        let finished = self.build(&format!("docker://{}/{NAME}:1", proxy.host()), options);
        let blobs = proxy.seen().into_iter().filter(Seen::is_blob).map(|seen| seen.path).collect::<Vec<_>>();
        assert_eq!(blobs.len(), 1, "only the config is fetched: {blobs:?} {}", finished.stderr);
    }
}

#[test]
fn registry_private_certificates_are_trusted_when_named() {
    registry_needs!();
    let dir = temp_dir();
    let (ca, kind) = authority(dir.path());
    let registry = Registry::start(&kind);
    let (user, host) = (User::new(), registry.host());
    registry.fill(&corner_image(), "latest", &format!("{NAME}:1"), None);
    let source = format!("docker://{host}/{NAME}:1");
    user.refused(&source, &[], &[&host, "invalid peer certificate", "ca-files"]);
    user.configure(&format!("[registry.hosts.\"{host}\"]\nca-files = [\"{}\"]\n", ca.display()));
    user.built(&source, &[]);
    user.configure("");
    let mut command = user.coracle(["build", "--quiet", "--force"]);
    command.env("SSL_CERT_FILE", &ca).arg(user.path("out/image.sqfs")).arg(&source);
    run(&mut command).success();
    fs::remove_file(user.path("out/image.sqfs")).unwrap();
    user.configure(&format!("[registry.hosts.\"{host}\"]\nca-files = [\"{}\"]\n", user.path("none").display()));
    user.refused(&source, &[], &["cannot read", "none"]);
    user.configure(&format!("[registry.hosts.\"{host}\"]\nca-file = []\n"));
    user.refused(&source, &[], &["coracle.toml", "ca-file", "line 2"]);
}

#[test]
fn registry_login_is_checked_kept_privately_used_and_forgotten() {
    registry_needs!();
    needs!(Tool("htpasswd"));
    let (_dir, registry) = filled_for_one();
    let (name, password) = LOGIN.split_once(':').unwrap();
    let (user, host) = (User::new(), registry.host());
    let source = format!("docker://{host}/{NAME}:1");
    user.refused(&source, &[], &["none are known", &format!("coracle registry login {host}")]);
    let login = |password: &str| {
        let mut command = user.coracle(["registry", "login", "--username", name, "--password-stdin", &host]);
        run_with_input(&mut command, format!("{password}\n").as_bytes())
    };
    let wrong = login("wr0ng-s3cret").exited(125);
    assert!(wrong.stderr.contains("does not accept") && !wrong.stderr.contains("wr0ng"), "{}", wrong.stderr);
    let file = user.path("home/.config/containers/auth.json");
    assert!(!file.exists());
    assert!(login(password).success().stdout.contains(&host));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let list = run(&mut user.coracle(["registry", "list"])).success().stdout;
    assert!(list.contains(&host) && list.contains(name) && !list.contains(password), "{list}");
    user.built(&source, &[]);
    fs::remove_file(user.path("out/image.sqfs")).unwrap();
    // skopeo reads what is kept, and coracle what docker keeps.
    let mut command = Command::new("skopeo");
    command.args(["inspect", "--raw", "--tls-verify=false", "--authfile"]).arg(&file).arg(&source);
    run(&mut command).success();
    run(&mut user.coracle(["registry", "logout", &host])).success();
    user.refused(&source, &[], &["log in"]);
    fs::create_dir(user.path("home/.docker")).unwrap();
    let auth = "dXNlcjpwYXNzOndvcmQ=";
    fs::write(user.path("home/.docker/config.json"), format!(r#"{{"auths":{{"{host}":{{"auth":"{auth}"}}}}}}"#))
        .unwrap();
    user.built(&source, &["--blob-cache", text(&user.path("blobs"))]);
}

#[test]
fn registry_tokens_and_credential_helpers() {
    registry_needs!();
    let dir = temp_dir();
    let tokens = TokenServer::start(dir.path(), LOGIN);
    let registry = Registry::start(&tokens.kind());
    registry.fill(&corner_image(), "latest", &format!("{NAME}:1"), Some(LOGIN));
    let (user, host) = (User::new(), registry.host());
    let source = format!("docker://{host}/{NAME}:1");
    user.refused(&source, &[], &["gives no token without a login"]);
    fs::create_dir_all(user.path("bin")).unwrap();
    let helper = user.path("bin/docker-credential-test");
    let answer = r#"{"ServerURL":"x","Username":"user","Secret":"pass:word"}"#;
    fs::write(
        &helper,
        format!("#!/bin/sh\nread server\n[ \"$1 $server\" = \"get {host}\" ] || exit 1\necho '{answer}'\n"),
    )
    .unwrap();
    fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
    let config = user.path("auth.json");
    fs::write(&config, format!(r#"{{"credHelpers":{{"{host}":"test"}}}}"#)).unwrap();
    user.configure(&format!("[registry]\nauth-files = [\"{}\"]\n", config.display()));
    let asked = tokens.seen().len();
    user.built(&source, &["--blob-cache", text(&user.path("blobs"))]);
    let asked = tokens.seen().split_off(asked);
    assert_eq!(asked.len(), 1, "one token for all requests of a scope: {asked:?}");
    assert!(asked[0].path.contains("scope=repository%3Atest%2Fcorner%3Apull"), "{}", asked[0].path);
    // Writing wants another token.
    let to = format!("oras://{host}/{NAME}:sqfs");
    run(user.coracle(["push"]).arg(user.path("out/image.sqfs")).arg(&to)).success();
    user.built(&to, &[]);
    fs::remove_file(user.path("out/image.sqfs")).unwrap();
    fs::write(&helper, "#!/bin/sh\necho 'the vault is sealed'\nexit 1\n").unwrap();
    user.refused(&source, &[], &["docker-credential-test", "the vault is sealed"]);
    fs::write(&helper, "#!/bin/sh\necho '{\"Username\":\"user\",\"Secret\":\"sEcReT\"}'\n").unwrap();
    let said = user.refused(&source, &[], &["refuses the credentials"]);
    assert!(!said.contains("sEcReT"), "{said}");
}

/// Blobs above a size that no config or manifest has.
fn is_layer(seen: &Seen) -> bool {
    seen.is_blob()
}

#[test]
fn registry_cut_connections_are_taken_up_where_they_broke() {
    registry_needs!();
    let registry = filled();
    for cached in [false, true] {
        let proxy = Proxy::start(registry.port, |seen| (is_layer(seen) && seen.before < 3).then_some(Fault::Cut(1000)));
        let user = User::new();
        let cache = user.path("blobs");
        let options = if cached { vec!["--blob-cache", text(&cache)] } else { Vec::new() };
        let image = user.built(&format!("docker://{}/{NAME}:1", proxy.host()), &options);
        assert!(image == expected(&proxy.host()), "cached: {cached}");
        let resumed = proxy.seen().iter().filter_map(|seen| seen.header("range")).collect::<Vec<_>>();
        assert!(resumed.iter().any(|range| range.starts_with("bytes=1000-")), "{resumed:?}");
        assert!(user.cached().iter().all(|name| name.len() == 64), "{:?}", user.cached());
    }
}

#[test]
fn registry_a_server_without_ranges_sends_again_what_is_skipped() {
    registry_needs!();
    let registry = filled();
    let proxy = Proxy::start(registry.port, |seen| match seen.before {
        0 if is_layer(seen) => Some(Fault::Cut(700)),
        _ => Some(Fault::NoRange),
    });
    let image = User::new().built(&format!("docker://{}/{NAME}:1", proxy.host()), &[]);
    assert!(image == expected(&proxy.host()));
}

#[test]
fn registry_wrong_and_short_content_is_refused_and_not_kept() {
    registry_needs!();
    let registry = filled();
    let size = |digest: &str| fs::metadata(corner_image().join("blobs/sha256").join(digest)).unwrap().len();
    for cached in [false, true] {
        let user = User::new();
        let cache = user.path("blobs");
        let options = if cached { vec!["--blob-cache", text(&cache)] } else { Vec::new() };
        let large = move |seen: &Seen| is_layer(seen) && size(seen.path.rsplit(':').next().unwrap()) > 10_000;
        let flipping = Proxy::start(registry.port, move |seen| large(seen).then_some(Fault::Flip));
        user.refused(&format!("docker://{}/{NAME}:1", flipping.host()), &options, &["is damaged", "digest"]);
        let size = |digest: &str| fs::metadata(corner_image().join("blobs/sha256").join(digest)).unwrap().len();
        for name in user.cached().iter().filter(|name| name.len() == 64) {
            let path = cache.join("blobs/sha256").join(name);
            assert_eq!(fs::metadata(&path).unwrap().len(), size(name));
            assert_eq!(&coracle_tests::tree::sha256_of(&path), name, "a damaged blob was kept");
        }
        let large = move |seen: &Seen| is_layer(seen) && size(seen.path.rsplit(':').next().unwrap()) > 10_000;
        let short = Proxy::start(registry.port, move |seen| large(seen).then_some(Fault::Truncate));
        let user = User::new();
        let cache = user.path("blobs");
        let options = if cached { vec!["--blob-cache", text(&cache)] } else { Vec::new() };
        user.refused(&format!("docker://{}/{NAME}:1", short.host()), &options, &["bytes of it instead of"]);
    }
    let manifest = Proxy::start(registry.port, |seen| seen.path.contains("/manifests/").then_some(Fault::Flip));
    User::new().refused(&format!("docker://{}/{NAME}:1", manifest.host()), &[], &["sends content with digest"]);
}

#[test]
fn registry_a_damaged_blob_of_the_cache_is_removed() {
    registry_needs!();
    let registry = filled();
    let user = User::new();
    let cache = user.path("blobs");
    let options = ["--blob-cache", text(&cache)];
    let source = format!("docker://{}/{NAME}:1", registry.host());
    let image = user.built(&source, &options);
    fs::remove_file(user.path("out/image.sqfs")).unwrap();
    let largest =
        user.cached().into_iter().max_by_key(|name| fs::metadata(cache.join("blobs/sha256").join(name)).unwrap().len());
    let victim = cache.join("blobs/sha256").join(largest.unwrap());
    let mut content = fs::read(&victim).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(&victim, content).unwrap();
    user.refused(&source, &options, &["is damaged"]);
    assert!(!victim.exists());
    assert!(user.built(&source, &options) == image);
}

#[test]
fn registry_passing_refusals_are_waited_for_and_lasting_ones_explained() {
    registry_needs!();
    let registry = filled();
    let proxy = Proxy::start(registry.port, |seen| match (seen.before, seen.path.contains("/manifests/")) {
        (0, true) => Some(Fault::Answer(429, vec![("Retry-After".into(), "1".into())], String::new())),
        (0, false) if seen.is_blob() => Some(Fault::Answer(500, Vec::new(), String::new())),
        (1, false) if seen.is_blob() => Some(Fault::Answer(503, Vec::new(), String::new())),
        _ => None,
    });
    let begun = Instant::now();
    User::new().built(&format!("docker://{}/{NAME}:1", proxy.host()), &[]);
    assert!(begun.elapsed() >= Duration::from_secs(1), "Retry-After was not waited for");

    let limit = Proxy::start(registry.port, |_| {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let headers = vec![
            header("Retry-After", "3600"),
            header("RateLimit-Limit", "100;w=21600"),
            header("RateLimit-Remaining", "0;w=21600"),
        ];
        let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#;
        Some(Fault::Answer(429, headers, body.into()))
    });
    let begun = Instant::now();
    let clues =
        ["limits how much", "reached your pull rate limit", "100 in 6 h, 0 left", "wait 60 min", "registry login"];
    User::new().refused(&format!("docker://{}/{NAME}:1", limit.host()), &[], &clues);
    assert!(begun.elapsed() < Duration::from_secs(30), "an hour's limit was waited for");

    let broken = Proxy::start(registry.port, |_| Some(Fault::Answer(500, Vec::new(), "\u{1b}[31m<html>".into())));
    let said = User::new().refused(&format!("docker://{}/{NAME}:1", broken.host()), &[], &["answers 500"]);
    assert!(!said.contains('\u{1b}'));
    assert!(broken.seen().iter().filter(|seen| seen.path.contains("/manifests/")).count() > 2, "no other try was made");
}

#[test]
fn registry_slow_servers_are_waited_for() {
    registry_needs!();
    let registry = Registry::plain();
    let dir = temp_dir();
    let layout = Layout::new(dir.path(), &[Tar::default().file("noise", &noise(300_000)).finish()]);
    registry.fill(&layout.path, "latest", "slow:1", None);
    let proxy = Proxy::start(registry.port, |_| Some(Fault::Slow(Duration::from_millis(20))));
    let user = User::new();
    let begun = Instant::now();
    user.built(&format!("docker://{}/slow:1", proxy.host()), &[]);
    assert!(begun.elapsed() > Duration::from_secs(1));
}

#[test]
fn registry_redirects_carry_no_credentials_to_another_host() {
    registry_needs!();
    needs!(Tool("htpasswd"));
    let (_dir, registry) = filled_for_one();
    let storage = filled();
    let elsewhere = Proxy::start(storage.port, |_| None);
    let target = elsewhere.host();
    let proxy = Proxy::start(registry.port, move |seen| {
        (seen.is_blob() && seen.header("authorization").is_some()).then(|| Fault::Redirect(target.clone()))
    });
    let user = User::new();
    let file = user.path("auth.json");
    let auth = "dXNlcjpwYXNzOndvcmQ=";
    // The other host has credentials of its own, which are not for it either: it was not asked for by its name.
    fs::write(
        &file,
        format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}},"{}":{{"auth":"{auth}"}}}}}}"#, proxy.host(), elsewhere.host()),
    )
    .unwrap();
    user.configure(&format!("[registry]\nauth-files = [\"{}\"]\n", file.display()));
    let image = user.built(&format!("docker://{}/{NAME}:1", proxy.host()), &[]);
    assert!(image == expected(&proxy.host()));
    let asked = elsewhere.seen();
    assert!(!asked.is_empty() && asked.iter().all(|seen| seen.header("authorization").is_none()), "{asked:?}");
    assert!(proxy.seen().iter().any(|seen| seen.header("authorization").is_some()));
}

#[test]
fn registry_who_a_redirect_leads_to_is_told_no_secret_for_asking() {
    registry_needs!();
    let registry = filled();
    // It wants to know who asks, and where to prove it: itself.
    let storage = filled();
    let asking = Proxy::start(storage.port, |seen| {
        let challenge = format!("Basic realm=\"{}\"", seen.path);
        Some(Fault::Answer(401, vec![("WWW-Authenticate".to_owned(), challenge)], String::new()))
    });
    let target = asking.host();
    let proxy = Proxy::start(registry.port, move |seen| seen.is_blob().then(|| Fault::Redirect(target.clone())));
    let user = User::new();
    let file = user.path("auth.json");
    fs::write(&file, format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNzOndvcmQ="}}}}}}"#, proxy.host())).unwrap();
    user.configure(&format!("[registry]\nauth-files = [\"{}\"]\n", file.display()));
    let refused = user.build(&format!("docker://{}/{NAME}:1", proxy.host()), &[]).exited(125);
    assert!(refused.stderr.contains(&asking.host()), "who refuses is named: {}", refused.stderr);
    let asked = asking.seen();
    assert!(!asked.is_empty() && asked.iter().all(|seen| seen.header("authorization").is_none()), "{asked:?}");
}

#[test]
fn registry_mirrors_are_tried_first_and_the_registry_last() {
    registry_needs!();
    let registry = filled();
    let (user, host) = (User::new(), registry.host());
    let source = format!("docker://{host}/{NAME}:1");
    let expected = expected(&host);
    let mirror = Registry::plain();
    mirror.fill(&corner_image(), "latest", &format!("cache/hub/{NAME}:1"), None);
    let good = Proxy::start(mirror.port, |_| None);
    let empty = Proxy::start(Registry::plain().port, |_| Some(Fault::Answer(404, Vec::new(), String::new())));
    let lying = Proxy::start(registry.port, |seen| seen.path.contains("/manifests/").then_some(Fault::Flip));
    let configure = |user: &User, mirrors: &[&str]| {
        let list = mirrors.iter().map(|mirror| format!("\"{mirror}\"")).collect::<Vec<_>>().join(", ");
        user.configure(&format!("[registry.hosts.\"{host}\"]\nmirrors = [{list}]\n"));
    };
    configure(&user, &[&format!("{}/cache/hub", good.host())]);
    assert!(user.built(&source, &[]) == expected, "the name is the registry's, whoever sends the content");
    assert!(good.seen().iter().any(|seen| seen.path.contains(&format!("/v2/cache/hub/{NAME}/blobs/"))));
    // Nobody listens on the first.
    configure(&user, &["127.0.0.1:1", &empty.host(), &lying.host()]);
    assert!(user.built(&source, &[]) == expected);
    assert!(!empty.seen().is_empty() && !lying.seen().is_empty());
    drop(registry);
    fs::remove_file(user.path("out/image.sqfs")).unwrap();
    user.refused(&source, &[], &["does not answer", "before that", &empty.host()]);
}

#[test]
fn registry_the_platform_asked_for_is_taken_from_an_index() {
    registry_needs!();
    let registry = Registry::plain();
    let user = User::new();
    let mut manifests = Vec::new();
    for (architecture, variant) in [("amd64", None), ("arm", Some("v7")), ("arm64", Some("v8"))] {
        let layout = Layout::new(
            &user.path(&format!("layout-{architecture}")),
            &[Tar::default().file("which", architecture.as_bytes()).finish()],
        );
        layout.edit_config(|config| config["architecture"] = architecture.into());
        registry.fill(&layout.path, "latest", &format!("multi:{architecture}"), None);
        let (manifest, digest) = registry.manifest("multi", architecture);
        let size = fs::metadata(layout.blob(&digest)).unwrap().len();
        let mut platform = serde_json::json!({"os": "linux", "architecture": architecture});
        if let Some(variant) = variant {
            platform["variant"] = variant.into();
        }
        manifests.push(serde_json::json!({"mediaType": manifest["mediaType"], "digest": digest, "size": size, "platform": platform}));
    }
    let media_type = "application/vnd.oci.image.index.v1+json";
    registry.put_manifest(
        "multi",
        "1",
        &serde_json::json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}),
    );
    let source = format!("docker://{}/multi:1", registry.host());
    for (options, architecture) in [
        (["--arch", "x86_64"], "amd64"),
        (["--arch", "aarch64"], "arm64"),
        (["--platform", "linux/arm/v7"], "arm"),
        (["--platform", "linux/arm64/v8"], "arm64"),
    ] {
        user.built(&source, &options);
        let info = run(user.coracle(["inspect", "--config"]).arg(user.path("out/image.sqfs"))).success().stdout;
        assert!(info.contains(&format!("\"architecture\":\"{architecture}\"")), "{options:?}: {info}");
    }
    fs::remove_file(user.path("out/image.sqfs")).unwrap();
    user.refused(&source, &["--arch", "s390x"], &["s390x", "linux/amd64", "linux/arm/v7"]);
    user.refused(&source, &["--platform", "linux/arm/v5"], &["arm/v5"]);
}

/// Bytes that nothing compresses.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}

#[test]
fn registry_large_blobs_come_in_ranges_and_killed_downloads_are_taken_up() {
    registry_needs!();
    let registry = Registry::plain();
    let user = User::new();
    let layout = Layout::new(&user.path("layout"), &[Tar::default().file("noise", &noise(70 << 20)).finish()]);
    registry.fill(&layout.path, "latest", "large:1", None);
    let cache = user.path("blobs");
    let options = ["--blob-cache", text(&cache)];
    let reference = user.built(&layout.source(), &[]).len();

    let slow = Proxy::start(registry.port, |seen| seen.is_blob().then_some(Fault::Slow(Duration::from_micros(300))));
    let mut command = user.coracle(["build", "--quiet", "--force", "--blob-cache", text(&cache)]);
    command.arg(user.path("out/killed.sqfs")).arg(format!("docker://{}/large:1", slow.host()));
    let mut child = command.spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let noted = |user: &User| {
        user.cached()
            .iter()
            .filter(|name| name.ends_with(".prefix"))
            .find_map(|name| fs::read_to_string(cache.join("blobs/sha256").join(name)).ok()?.trim().parse::<u64>().ok())
    };
    while noted(&user).is_none_or(|prefix| prefix == 0) {
        assert!(Instant::now() < until && child.try_wait().unwrap().is_none(), "no piece came: {:?}", user.cached());
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fs::read_dir(user.path("out")).unwrap().count(), 1, "a killed conversion left something");
    let ranges = slow.seen().iter().filter_map(|seen| seen.header("range")).collect::<Vec<_>>();
    assert!(ranges.len() >= 3, "{ranges:?}");

    let part = user.cached().into_iter().find(|name| name.ends_with(".part")).unwrap();
    let part = fs::File::options().write(true).open(cache.join("blobs/sha256").join(part)).unwrap();
    part.set_modified(SystemTime::now() - Duration::from_secs(120)).unwrap();
    let proxy = Proxy::start(registry.port, |_| None);
    let image = user.built(&format!("docker://{}/large:1", proxy.host()), &options);
    assert!(image.len().abs_diff(reference) < 4096 + 200, "{} and {reference}", image.len());
    let starts = proxy.seen().iter().filter_map(|seen| seen.header("range")).collect::<Vec<_>>();
    assert!(!starts.is_empty() && !starts.iter().any(|range| range.starts_with("bytes=0-")), "{starts:?}");
    assert_eq!(user.cached(), [layout.layer_digest(0).trim_start_matches("sha256:")]);
}

#[test]
fn registry_proxies_of_the_environment_are_used_but_not_for_this_machine() {
    registry_needs!();
    let registry = filled();
    let user = User::new();
    let source = format!("docker://{}/{NAME}:1", registry.host());
    let through = |variable: &str, value: &str, source: &str| {
        let mut command = user.coracle(["build", "--quiet", "--force"]);
        run(command.env(variable, value).arg(user.path("out/image.sqfs")).arg(source))
    };
    through("HTTP_PROXY", "http://127.0.0.1:1", &source).success();
    // A name that nobody can look up is the proxy's to look up.
    let gate = Proxy::start(registry.port, |_| Some(Fault::Answer(502, Vec::new(), String::new())));
    let finished =
        through("HTTPS_PROXY", &format!("http://{}", gate.host()), "docker://registry.invalid/a:1").exited(125);
    assert!(gate.seen().iter().any(|seen| seen.method == "CONNECT"), "{:?} {}", gate.seen(), finished.stderr);
}

#[test]
fn registry_layers_that_may_not_be_distributed_come_from_their_publisher() {
    registry_needs!();
    let registry = Registry::plain();
    let user = User::new();
    let layout = Layout::new(&user.path("layout"), &[Tar::default().file("licensed", b"content").finish()]);
    registry.fill(&layout.path, "latest", "foreign:1", None);
    // The registry itself does not have it.
    let publisher = Proxy::start(registry.port, |_| None);
    let mut manifest = layout.manifest();
    let digest = layout.layer_digest(0);
    manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar".into();
    let body = |urls: serde_json::Value| {
        let mut manifest = manifest.clone();
        manifest["layers"][0]["urls"] = urls;
        manifest.to_string()
    };
    let front = |body: String| {
        let digest = digest.clone();
        Proxy::start(registry.port, move |seen| {
            let typed = ("Content-Type".to_owned(), "application/vnd.oci.image.manifest.v1+json".to_owned());
            if seen.path.contains("/manifests/") {
                Some(Fault::Answer(200, vec![typed], body.clone()))
            } else {
                seen.path.contains(&digest).then(|| Fault::Answer(404, Vec::new(), String::new()))
            }
        })
    };
    let address = format!("http://{}/v2/foreign/blobs/{digest}", publisher.host());
    let proxy = front(body(serde_json::json!(["ftp://x/y", address])));
    user.built(&format!("docker://{}/foreign:1", proxy.host()), &[]);
    assert!(publisher.seen().iter().any(|seen| seen.path.contains(&digest)));
    fs::remove_file(user.path("out/image.sqfs")).unwrap();
    let proxy = front(body(serde_json::json!(["file:///etc/passwd"])));
    user.refused(&format!("docker://{}/foreign:1", proxy.host()), &[], &["no such blob"]);
}

#[test]
fn registry_a_manifest_of_the_old_schema_is_refused_with_the_remedy() {
    registry_needs!();
    let old = Proxy::start(1, |_| {
        let typed = ("Content-Type".to_owned(), "application/vnd.docker.distribution.manifest.v1+prettyjws".to_owned());
        Some(Fault::Answer(200, vec![typed], r#"{"schemaVersion":1,"name":"old","tag":"1","fsLayers":[]}"#.into()))
    });
    User::new().refused(&format!("docker://{}/old:1", old.host()), &[], &["push the image again"]);
}
