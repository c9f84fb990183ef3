//! Real registries on the loopback interface, a token server, and a proxy that makes what networks do.

use crate::fixtures::temp_dir;
use crate::needs::find_tool;
use crate::process::run;
use crate::tree::sha256_hex;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, SystemTime};

/// Longer than a registry takes to start on a slow machine.
const START: Duration = Duration::from_secs(30);

/// How a registry is to be.
#[derive(Clone, Debug, Default)]
pub struct Kind {
    /// Certificate and key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Lines below `auth:`, indented.
    pub auth: Option<String>,
}

/// A `docker-registry` that ends with this.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    dir: tempfile::TempDir,
    /// Where it listens.
    pub port: u16,
}

impl Registry {
    /// An open registry without TLS.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn plain() -> Self {
        Self::start(&Kind::default())
    }

    /// Starts one on a port of the system's choice.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(kind: &Kind) -> Self {
        let dir = temp_dir();
        let tls = kind.tls.as_ref().map_or_else(String::new, |(certificate, key)| {
            format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display())
        });
        let auth = kind.auth.as_ref().map_or_else(String::new, |auth| format!("auth:\n{auth}"));
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: \
             127.0.0.1:0\n  secret: test\n{tls}{auth}",
            dir.path().join("data").display()
        );
        let config = dir.path().join("config.yml");
        fs::write(&config, text).unwrap();
        // Should the test be killed, the kernel ends the registry.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(find_tool("docker-registry").unwrap()).arg("serve").arg(config);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (tell, hear) = mpsc::channel();
        let log = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("listening on 127.0.0.1:") {
                    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                    let _ = tell.send(digits.parse::<u16>().unwrap());
                }
            }
        });
        let port = hear.recv_timeout(START).expect("docker-registry does not say where it listens");
        Self { child, dir, port }
    }

    /// Host and port.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Copies an image of a layout there, byte for byte. `login` is `USER:PASSWORD`.
    ///
    /// # Panics
    /// When that fails.
    pub fn fill(&self, layout: &Path, tag: &str, name: &str, login: Option<&str>) {
        let mut command = Command::new("skopeo");
        command.args([
            "copy",
            "--quiet",
            "--all",
            "--preserve-digests",
            "--insecure-policy",
            "--dest-tls-verify=false",
        ]);
        if let Some(login) = login {
            command.args(["--dest-creds", login]);
        }
        let from = format!("oci:{}:{tag}", layout.display());
        run(command.arg(from).arg(format!("docker://{}/{name}", self.host()))).success();
    }

    /// Stores a blob in an open registry.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn put_blob(&self, name: &str, content: &[u8], media_type: &str) -> Value {
        let digest = format!("sha256:{}", sha256_hex(content));
        let (head, _) = self.ask("POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"");
        let location = header(&head, "location").unwrap();
        let path = location.strip_prefix(&format!("http://{}", self.host())).unwrap_or(&location).to_owned();
        let (head, _) = self.ask("PUT", &format!("{path}&digest={digest}"), &[], content);
        assert!(head.contains(" 201 "), "{head}");
        json!({"mediaType": media_type, "digest": digest, "size": content.len()})
    }

    /// Stores a manifest in an open registry.
    ///
    /// # Panics
    /// When that fails.
    pub fn put_manifest(&self, name: &str, tag: &str, manifest: &Value) {
        let media_type = manifest["mediaType"].as_str().unwrap();
        let path = format!("/v2/{name}/manifests/{tag}");
        let (head, body) = self.ask("PUT", &path, &[("Content-Type", media_type)], manifest.to_string().as_bytes());
        assert!(head.contains(" 201 "), "{head} {}", String::from_utf8_lossy(&body));
    }

    /// A manifest of an open registry, and its digest.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn manifest(&self, name: &str, tag: &str) -> (Value, String) {
        let accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";
        let (head, body) = self.ask("GET", &format!("/v2/{name}/manifests/{tag}"), &[("Accept", accept)], b"");
        assert!(head.contains(" 200 "), "{head}");
        (serde_json::from_slice(&body).unwrap(), format!("sha256:{}", sha256_hex(&body)))
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (String, Vec<u8>) {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.host());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        exchange(self.port, head.as_bytes(), body).unwrap()
    }

    /// Where it keeps its files.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a request that asks for the connection to be closed; head and body of the answer.
fn exchange(port: u16, head: &[u8], body: &[u8]) -> std::io::Result<(String, Vec<u8>)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(head)?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let body = answer.get(end + 4..).unwrap_or_default().to_vec();
    let chunked = header(&head, "transfer-encoding").is_some();
    Ok((head, if chunked { unchunk(&body) } else { body }))
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|bytes| bytes == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap().trim(), 16).unwrap();
        whole.extend_from_slice(&body[end + 2..end + 2 + length]);
        body = &body[end + 4 + length..];
        if length == 0 {
            break;
        }
    }
    whole
}

/// A header's value.
#[must_use]
pub fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

/// A certificate authority, and a server's certificate for 127.0.0.1 by it.
///
/// # Panics
/// When openssl fails.
#[must_use]
pub fn authority(dir: &Path) -> (PathBuf, Kind) {
    let file = |name: &str| dir.join(name).into_os_string().into_string().unwrap();
    let openssl = |words: &[&str]| run(Command::new("openssl").args(words)).success();
    let (ca, ca_key, key, request, certificate, extensions) =
        (file("ca.pem"), file("ca.key"), file("server.key"), file("server.csr"), file("server.pem"), file("ext"));
    let curve = "ec_paramgen_curve:P-256";
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        curve,
        "-nodes",
        "-keyout",
        &ca_key,
        "-out",
        &ca,
        "-subj",
        "/CN=Test CA",
        "-days",
        "2",
        "-addext",
        "basicConstraints=critical,CA:TRUE",
    ]);
    openssl(&[
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        curve,
        "-nodes",
        "-keyout",
        &key,
        "-out",
        &request,
        "-subj",
        "/CN=server",
    ]);
    fs::write(&extensions, "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        &extensions,
        "-out",
        &certificate,
    ]);
    (ca.into(), Kind { tls: Some((certificate.into(), key.into())), auth: None })
}

/// A registry's settings for one user and password.
///
/// # Panics
/// When htpasswd fails.
#[must_use]
pub fn htpasswd(dir: &Path, user: &str, password: &str) -> Kind {
    let out = run(Command::new("htpasswd").args(["-Bbn", user, password])).success().stdout;
    let file = dir.join("htpasswd");
    fs::write(&file, out).unwrap();
    Kind { tls: None, auth: Some(format!("  htpasswd:\n    realm: test\n    path: {}\n", file.display())) }
}

/// A request that a test's server saw.
#[derive(Clone, Debug)]
pub struct Seen {
    /// GET, HEAD, …
    pub method: String,
    /// With the query.
    pub path: String,
    /// The whole head.
    pub head: String,
    /// Requests with this method and path before.
    pub before: usize,
}

impl Seen {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }

    /// Whether it asks for a blob's content.
    #[must_use]
    pub fn is_blob(&self) -> bool {
        self.method == "GET" && self.path.contains("/blobs/sha256:")
    }
}

/// A server of the test in threads of its own.
#[derive(Debug)]
struct Server {
    port: u16,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    fn start(answer: impl Fn(&Seen, &[u8], &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self { port, stop: Arc::default(), seen: Arc::default() };
        let (stop, seen, answer) = (Arc::clone(&server.stop), Arc::clone(&server.seen), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                thread::spawn(move || serve(stream, &seen, &*answer));
            }
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// One request for each connection.
fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Seen>>, answer: &dyn Fn(&Seen, &[u8], &mut TcpStream)) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            // A handshake of TLS, which is not spoken here.
            Ok(1) if head.is_empty() && byte[0] == 0x16 => return,
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split_ascii_whitespace();
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let length = header(&head, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    if stream.read_exact(&mut body).is_err() {
        return;
    }
    let one = {
        let mut seen = seen.lock().unwrap();
        let before = seen.iter().filter(|one| one.method == method && one.path == path).count();
        let one = Seen { method, path, head, before };
        seen.push(one.clone());
        one
    };
    answer(&one, &body, &mut stream);
    let _ = stream.shutdown(Shutdown::Both);
}

/// What a proxy makes of an answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Closes the connection after so many bytes of the body.
    Cut(usize),
    /// Changes the byte in the middle of the body.
    Flip,
    /// Sends half of the body as if it were the whole.
    Truncate,
    /// Answers itself: status, headers, body.
    Answer(u16, Vec<(String, String)>, String),
    /// Waits after each 4 KiB.
    Slow(Duration),
    /// Sends the client elsewhere, to the same path.
    Redirect(String),
    /// Asks for the whole where the client asked for a range.
    NoRange,
}

/// Passes requests on to a registry, faults excepted.
#[derive(Debug)]
pub struct Proxy(Server);

impl Proxy {
    /// In front of a port.
    #[must_use]
    pub fn start(upstream: u16, fault: impl Fn(&Seen) -> Option<Fault> + Send + Sync + 'static) -> Self {
        Self(Server::start(move |seen, body, stream| {
            // The client may go away at any time.
            let _ = pass(upstream, seen, body, stream, fault(seen));
        }))
    }

    /// Host and port.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.0.port)
    }

    /// All requests so far.
    ///
    /// # Panics
    /// When a thread of the proxy has.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.0.seen.lock().unwrap().clone()
    }
}

fn pass(upstream: u16, seen: &Seen, body: &[u8], stream: &mut TcpStream, fault: Option<Fault>) -> std::io::Result<()> {
    match &fault {
        Some(Fault::Answer(status, headers, text)) => {
            let mut head =
                format!("HTTP/1.1 {status} Status\r\nConnection: close\r\nContent-Length: {}\r\n", text.len());
            for (name, value) in headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            return stream.write_all(format!("{head}\r\n{text}").as_bytes());
        }
        Some(Fault::Redirect(host)) => {
            let head = "HTTP/1.1 307 Elsewhere\r\nConnection: close\r\nContent-Length: 0\r\nLocation: http://";
            return stream.write_all(format!("{head}{host}{}\r\n\r\n", seen.path).as_bytes());
        }
        _ => {}
    }
    let drop_range = matches!(fault, Some(Fault::NoRange));
    let kept = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !line.is_empty() && name != "connection" && !(drop_range && name == "range")
    };
    let head = seen.head.lines().filter(kept).collect::<Vec<_>>().join("\r\n") + "\r\nConnection: close\r\n\r\n";
    let (head, mut body) = exchange(upstream, head.as_bytes(), body)?;
    match fault {
        Some(Fault::Flip) => {
            let middle = body.len() / 2;
            if let Some(byte) = body.get_mut(middle) {
                *byte ^= 1;
            }
        }
        Some(Fault::Truncate) => body.truncate(body.len() / 2),
        _ => {}
    }
    let length = if seen.method == "HEAD" { header(&head, "content-length") } else { Some(body.len().to_string()) };
    let kept = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !["connection", "transfer-encoding", "content-length"].contains(&name.as_str())
    };
    let mut head = head.lines().filter(kept).collect::<Vec<_>>().join("\r\n");
    if let Some(length) = length {
        head.push_str(&format!("\r\nContent-Length: {length}"));
    }
    stream.write_all((head + "\r\nConnection: close\r\n\r\n").as_bytes())?;
    match fault {
        Some(Fault::Cut(after)) => stream.write_all(&body[..after.min(body.len())]),
        Some(Fault::Slow(pause)) => body.chunks(4096).try_for_each(|chunk| {
            thread::sleep(pause);
            stream.write_all(chunk)
        }),
        _ => stream.write_all(&body),
    }
}

/// A server that gives tokens to one user, and a registry that believes it.
#[derive(Debug)]
pub struct TokenServer {
    server: Server,
    certificate: PathBuf,
}

const SERVICE: &str = "test-registry";
const ISSUER: &str = "test-issuer";

impl TokenServer {
    /// For `USER:PASSWORD`. Without, it answers as to a wrong password.
    ///
    /// # Panics
    /// When openssl fails.
    #[must_use]
    pub fn start(dir: &Path, login: &str) -> Self {
        let (key, certificate) = (dir.join("token.key"), dir.join("token.pem"));
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=token", "-days", "2", "-keyout"]);
        run(command.arg(&key).arg("-out").arg(&certificate)).success();
        let pem = fs::read_to_string(&certificate).unwrap();
        let chain = pem.lines().filter(|line| !line.starts_with("-----")).collect::<String>();
        let expected = format!("Basic {}", STANDARD.encode(login));
        let server = Server::start(move |seen, _, stream| {
            let (status, body) = if seen.header("authorization").as_deref() == Some(&expected) {
                (200, json!({"token": token(&key, &chain, &seen.path)}))
            } else {
                (401, json!({"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}))
            };
            let body = body.to_string();
            let head =
                format!("HTTP/1.1 {status} Status\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes());
        });
        Self { server, certificate }
    }

    /// Settings of a registry that asks for its tokens.
    #[must_use]
    pub fn kind(&self) -> Kind {
        let auth = format!(
            "  token:\n    realm: http://127.0.0.1:{}/token\n    service: {SERVICE}\n    issuer: {ISSUER}\n    \
             rootcertbundle: {}\n",
            self.server.port,
            self.certificate.display()
        );
        Kind { tls: None, auth: Some(auth) }
    }

    /// All requests so far.
    ///
    /// # Panics
    /// When a thread of the server has.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.server.seen.lock().unwrap().clone()
    }
}

/// A signed token for the scopes of a query.
fn token(key: &Path, chain: &str, path: &str) -> String {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let access = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("scope="))
        .filter_map(|scope| {
            let scope = scope.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
            let mut parts = scope.splitn(3, ':').map(str::to_owned).collect::<Vec<_>>().into_iter();
            let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
            Some(json!({"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()}))
        })
        .collect::<Vec<_>>();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"iss": ISSUER, "sub": "user", "aud": SERVICE, "exp": now + 300, "nbf": now - 5, "iat": now,
        "jti": now.to_string(), "access": access});
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(json!({"typ": "JWT", "alg": "RS256", "x5c": [chain]})), encode(claims));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(sign(key, signed.as_bytes())))
}

/// A signature by openssl over the SHA-256 of a message.
///
/// # Panics
/// When openssl fails.
#[must_use]
pub fn sign(key: &Path, message: &[u8]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(["dgst", "-sha256", "-sign"]).arg(key).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(message).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    output.stdout
}
