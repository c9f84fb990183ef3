//! Credentials as docker, podman and skopeo keep them: `auth.json`, `config.json` and helper programs.

use super::error::{Error, words};
use super::helper;
use super::reference::canonical_host;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The key that docker has for its own registry.
const DOCKER_KEY: &str = "https://index.docker.io/v1/";
/// Largest file that is read, in bytes.
const FILE_MAX: u64 = 4 << 20;
/// The user name that stands for an identity token, of docker's helpers.
pub(super) const TOKEN_USER: &str = "<token>";

/// What proves who asks. Has no `Debug`, so that it cannot come into a message.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// User name and password.
    Password(String, String),
    /// What a login gave in place of a password; goes to the token server alone.
    Identity(String),
}

impl Credential {
    /// As a header of basic authentication.
    pub(super) fn basic(&self) -> Option<String> {
        match self {
            Self::Password(user, password) => Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))),
            Self::Identity(_) => None,
        }
    }
}

/// A registry or repository that a file has credentials for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// As in the file.
    pub key: String,
    /// User name, unless a helper keeps it.
    pub user: Option<String>,
    /// The file.
    pub file: PathBuf,
}

/// The files of the environment, in the order in which they count.
pub fn usual_files() -> Vec<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = variable("HOME");
    let config = variable("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
    let docker = variable("DOCKER_CONFIG").or_else(|| home.as_ref().map(|home| home.join(".docker")));
    [
        variable("REGISTRY_AUTH_FILE"),
        variable("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        config.map(|dir| dir.join("containers/auth.json")),
        docker.map(|dir| dir.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The file that a login is written to.
///
/// # Errors
/// When there is no home directory either.
pub fn login_file() -> Result<PathBuf, Error> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("REGISTRY_AUTH_FILE")
        .or_else(|| variable("XDG_CONFIG_HOME").map(|dir| dir.join("containers/auth.json")))
        .or_else(|| variable("HOME").map(|home| home.join(".config/containers/auth.json")))
        .ok_or_else(|| Error::Credentials {
            place: "the user".into(),
            reason: "neither HOME nor REGISTRY_AUTH_FILE is set".into(),
        })
}

/// The first credentials for a repository that one of the files has: in each file, those of the longest name count.
///
/// # Errors
/// When a file or helper cannot be used.
pub fn find(files: &[PathBuf], host: &str, repository: &str) -> Result<Option<Credential>, Error> {
    for path in files {
        if let Some(document) = read(path)?
            && let Some(found) = lookup(&document, path, host, repository)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn read(path: &Path) -> Result<Option<Map<String, Value>>, Error> {
    let failed = |reason: String| Error::Credentials { place: path.display().to_string(), reason };
    let mut text = String::new();
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    file.take(FILE_MAX).read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
    if text.trim().is_empty() {
        return Ok(Some(Map::new()));
    }
    // What the parser quotes of the text could be a secret; the place is enough.
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| failed(format!("it is no JSON object, line {} column {}", error.line(), error.column())))
}

/// A key without what docker puts around hosts: `https://host/v1/` is `host`.
fn normal(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let bare = bare.trim_end_matches('/');
    match bare.split_once('/') {
        Some((host, "v1" | "v2")) => canonical_host(host),
        None => canonical_host(bare),
        Some(_) => bare.to_owned(),
    }
}

fn lookup(
    document: &Map<String, Value>,
    path: &Path,
    host: &str,
    repository: &str,
) -> Result<Option<Credential>, Error> {
    let section = |name| document.get(name).and_then(Value::as_object);
    let full = format!("{host}/{repository}");
    // `host/a/b`, `host/a`, `host`.
    let names = std::iter::successors(Some(full.trim_end_matches('/')), |name| {
        name.rsplit_once('/').map(|(shorter, _)| shorter)
    });
    let entry = |name: &str, section: Option<&'_ Map<String, Value>>| {
        section?.iter().find(|(key, _)| normal(key) == name).map(|(key, value)| (key.clone(), value.clone()))
    };
    for name in names {
        let server = |key: &str| if name == "docker.io" { DOCKER_KEY.to_owned() } else { key.to_owned() };
        if let Some((key, Value::String(helper))) = entry(name, section("credHelpers")) {
            return helper::get(&helper, &server(&key));
        }
        let found = entry(name, section("auths"));
        if let Some((_, auth)) = &found
            && let Some(credential) = credential(auth, path, name)?
        {
            return Ok(Some(credential));
        }
        // Docker leaves an empty entry for what its store has; a store is asked for hosts alone.
        if name == host
            && let Some(helper) = document.get("credsStore").and_then(Value::as_str).filter(|helper| !helper.is_empty())
            && let Some(credential) =
                helper::get(helper, &server(&found.map_or_else(|| name.to_owned(), |(key, _)| key)))?
        {
            return Ok(Some(credential));
        }
    }
    Ok(None)
}

fn credential(auth: &Value, path: &Path, name: &str) -> Result<Option<Credential>, Error> {
    let text = |key| auth.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Credential::Identity(token.to_owned())));
    }
    if let Some(encoded) = text("auth") {
        let decoded = STANDARD.decode(encoded.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|text| text.trim_end_matches('\0').split_once(':'));
        let (user, password) = pair.ok_or_else(|| Error::Credentials {
            place: path.display().to_string(),
            reason: format!("the entry of {} is not USER:PASSWORD in base64: log in again", words(name)),
        })?;
        return Ok(Some(Credential::Password(user.to_owned(), password.to_owned())));
    }
    Ok(text("username")
        .zip(text("password"))
        .map(|(user, password)| Credential::Password(user.into(), password.into())))
}

/// What the files have credentials for.
///
/// # Errors
/// When a file cannot be used.
pub fn list(files: &[PathBuf]) -> Result<Vec<Stored>, Error> {
    let mut all = Vec::new();
    for path in files {
        let Some(document) = read(path)? else { continue };
        for (section, helped) in [("auths", false), ("credHelpers", true)] {
            for (key, value) in document.get(section).and_then(Value::as_object).into_iter().flatten() {
                let user = match credential(value, path, key) {
                    Ok(Some(Credential::Password(user, _))) if !helped => Some(user),
                    _ => None,
                };
                all.push(Stored { key: key.clone(), user, file: path.clone() });
            }
        }
    }
    Ok(all)
}

/// Writes credentials for a registry into a file, which only its owner can read.
///
/// # Errors
/// When the file cannot be written, or is none of its kind.
pub fn store(path: &Path, host: &str, credential: &Credential) -> Result<(), Error> {
    let mut document = read(path)?.unwrap_or_default();
    let entry = match credential {
        Credential::Password(user, password) => json!({ "auth": STANDARD.encode(format!("{user}:{password}")) }),
        Credential::Identity(token) => {
            json!({ "auth": STANDARD.encode(format!("{TOKEN_USER}:")), "identitytoken": token })
        }
    };
    let auths = document.entry("auths").or_insert_with(|| Value::Object(Map::new()));
    match auths.as_object_mut() {
        Some(auths) => {
            // The same registry in another spelling would count before this.
            auths.retain(|key, _| normal(key) != normal(host));
            auths.insert(host.to_owned(), entry);
        }
        None => {
            let reason = "its auths is no object".to_owned();
            return Err(Error::Credentials { place: path.display().to_string(), reason });
        }
    }
    write(path, &document)
}

/// Removes what a file has for a registry; false when there was nothing.
///
/// # Errors
/// When the file cannot be written.
pub fn erase(path: &Path, host: &str) -> Result<bool, Error> {
    let Some(mut document) = read(path)? else { return Ok(false) };
    let Some(auths) = document.get_mut("auths").and_then(Value::as_object_mut) else { return Ok(false) };
    let before = auths.len();
    auths.retain(|key, _| normal(key) != normal(host));
    if auths.len() == before {
        return Ok(false);
    }
    write(path, &document).map(|()| true)
}

fn write(path: &Path, document: &Map<String, Value>) -> Result<(), Error> {
    // A link, as people have from dotfiles, stays one.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let failed = |source| Error::File { action: "write", path: path.clone(), source };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let text = serde_json::to_vec_pretty(document).map_err(|error| failed(error.into()))?;
    let mut file = tempfile::Builder::new()
        .prefix(".auth.")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(directory)
        .map_err(failed)?;
    file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist(&path).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(found: Option<Credential>) -> String {
        match found {
            Some(Credential::Password(user, password)) => format!("{user}:{password}"),
            Some(Credential::Identity(token)) => format!("token {token}"),
            None => "none".into(),
        }
    }

    #[test]
    fn the_longest_name_of_the_first_file_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("a.json"), dir.path().join("b.json"));
        let auth = |text: &str| STANDARD.encode(text);
        let document = json!({"auths": {
            "r.example": {"auth": auth("host:1")}, "r.example/team": {"auth": auth("team:a:b")},
            "https://index.docker.io/v1/": {"auth": auth("hub:2")}, "i.example": {"identitytoken": "t"},
            "bad.example": {"auth": "%%%"}, "empty.example": {},
        }});
        fs::write(&first, document.to_string()).unwrap();
        fs::write(&second, json!({"auths": {"http://q.example/v2/": {"auth": auth("q:3")}}}).to_string()).unwrap();
        let files = [dir.path().join("absent"), first.clone(), second];
        let find = |host: &str, name: &str| find(&files, host, name);
        assert_eq!(password(find("r.example", "team/app").unwrap()), "team:a:b");
        assert_eq!(password(find("r.example", "teams/app").unwrap()), "host:1");
        assert_eq!(password(find("docker.io", "library/debian").unwrap()), "hub:2");
        assert_eq!(password(find("q.example", "x").unwrap()), "q:3");
        assert_eq!(password(find("i.example", "x").unwrap()), "token t");
        assert_eq!(password(find("empty.example", "x").unwrap()), "none");
        let error = find("bad.example", "x").err().unwrap().to_string();
        assert!(error.contains("a.json") && !error.contains("%%%"), "{error}");
        assert_eq!(list(&files).unwrap().len(), 7);
    }

    #[test]
    fn logins_are_private_and_leave_the_rest_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("containers/auth.json");
        let mine = Credential::Password("u".into(), "p".into());
        store(&file, "r.example", &mine).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let mut document = read(&file).unwrap().unwrap();
        document.insert("other".into(), json!({"kept": true}));
        fs::write(&file, serde_json::to_string(&document).unwrap()).unwrap();
        store(&file, "s.example", &mine).unwrap();
        assert!(erase(&file, "r.example").unwrap());
        assert!(!erase(&file, "r.example").unwrap());
        let left = read(&file).unwrap().unwrap();
        assert_eq!(left["other"], json!({"kept": true}));
        assert_eq!(list(&[file]).unwrap().len(), 1);
    }

    #[test]
    fn a_damaged_file_is_named_and_not_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("auth.json");
        fs::write(&file, "{\"auths\": sEcReT}").unwrap();
        let error = find(&[file], "x", "y").err().unwrap().to_string();
        assert!(error.contains("auth.json") && error.contains("line 1") && !error.contains("sEcReT"), "{error}");
    }
}
