//! The server: what it holds, what it answers, and its faults.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{ADAPTER, CONFIG, ENCODER, REPO, digest};

const FIRST_COMMIT: &str = "00112233445566778899aabbccddeeff00112233";
const PIECE_BYTES: usize = 16 << 10;

/// What goes wrong with one answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Another status, and a header.
    Status(u16, &'static str, &'static str),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// Nothing more comes after so many bytes of the body; not even the status if there is no number.
    Silent(Option<usize>),
    /// A pause before each piece of the body.
    Slow(Duration),
    /// One byte of the body is another.
    Flipped,
    /// The body and its length lack so many bytes.
    Short(usize),
    /// The whole file comes, wherever it was to begin.
    Whole,
    /// To that address.
    Redirect(String),
}

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    pub headers: HashMap<String, String>,
}

/// A running server; it ends with the test's process.
pub struct Server {
    address: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    faults: Mutex<HashMap<String, VecDeque<Fault>>>,
    requests: Mutex<Vec<Request>>,
    commit: Mutex<String>,
    /// Where large files really lie, if not here.
    storage: Mutex<Option<String>>,
    /// Only for this token, and terms have to be accepted.
    gate: Mutex<Option<String>>,
    /// Changes the listing.
    listing: Mutex<Option<fn(&mut Value)>>,
    is_down: AtomicBool,
}

/// The bytes of a file.
pub fn content(file: &str) -> Vec<u8> {
    match file {
        CONFIG => b"{\"hidden_size\": 1280}\n".to_vec(),
        ADAPTER => noise(1, 300_007),
        ENCODER => noise(2, 700_001),
        _ => panic!("no file {file}"),
    }
}

/// The digest that names it: SHA-256 for a large one, git's for a small one.
pub fn etag(file: &str) -> String {
    digest(&content(file), if file == CONFIG { 40 } else { 64 })
}

/// Bytes that repeat nowhere.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State { commit: Mutex::new(FIRST_COMMIT.to_owned()), ..State::default() });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || state.serve(stream));
            }
        });
        Self { address, state }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn commit(&self) -> String {
        self.state.commit.lock().unwrap().clone()
    }

    /// The same files at another commit.
    pub fn move_on(&self, commit: &str) {
        commit.clone_into(&mut self.state.commit.lock().unwrap());
    }

    /// The next answers for a path that ends like this go wrong, in this order.
    pub fn fail(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        self.state.faults.lock().unwrap().entry(path.to_owned()).or_default().extend(faults);
    }

    /// All answers for a path that ends like this go wrong.
    pub fn always_fail(&self, path: &str, fault: Fault) {
        self.fail(path, std::iter::repeat_n(fault, 1000));
    }

    /// Large files lie on another server.
    pub fn store_at(&self, other: &Self) {
        *self.state.storage.lock().unwrap() = Some(other.address.clone());
    }

    /// The terms of the repository have to be accepted, which the owner of that token did.
    pub fn gate(&self, token: &str) {
        *self.state.gate.lock().unwrap() = Some(token.to_owned());
    }

    pub fn change_listing(&self, change: fn(&mut Value)) {
        *self.state.listing.lock().unwrap() = Some(change);
    }

    /// Every connection is closed at once.
    pub fn go_down(&self) {
        self.state.is_down.store(true, Ordering::SeqCst);
    }

    /// What was asked for whose path ends like this.
    pub fn requests(&self, path: &str) -> Vec<Request> {
        let requests = self.state.requests.lock().unwrap();
        requests.iter().filter(|request| request.path.ends_with(path)).cloned().collect()
    }

    /// First bytes of the ranges that were asked for; 0 for the whole.
    pub fn ranges(&self, path: &str) -> Vec<usize> {
        self.requests(path).iter().map(|request| range_start(&request.headers)).collect()
    }
}

fn range_start(headers: &HashMap<String, String>) -> usize {
    let range = headers.get("range").map(|range| range.trim_start_matches("bytes=").split('-').next().unwrap());
    range.map_or(0, |start| start.parse().unwrap())
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16, body: Vec<u8>) -> Self {
        Self { status, headers: BTreeMap::new(), body }
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.insert(name.to_owned(), value.into());
        self
    }
}

impl State {
    fn serve(&self, stream: TcpStream) -> Option<()> {
        if self.is_down.load(Ordering::SeqCst) {
            return None;
        }
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let (method, target, headers) = read_request(&mut reader)?;
        let path = target.split('?').next()?.to_owned();
        self.requests.lock().unwrap().push(Request { path: path.clone(), headers: headers.clone() });
        let fault = self.next_fault(&path);
        let answer = match &fault {
            Some(Fault::Status(status, name, value)) => Answer::new(*status, b"no".to_vec()).with(name, *value),
            Some(Fault::Redirect(to)) => Answer::new(302, Vec::new()).with("Location", to),
            Some(Fault::Whole) => self.answer(&path, &HashMap::new()),
            _ => self.answer(&path, &headers),
        };
        send(stream, &mut reader, &method, answer, fault);
        Some(())
    }

    fn next_fault(&self, path: &str) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        faults.iter_mut().find(|(end, _)| path.ends_with(end.as_str()))?.1.pop_front()
    }

    fn answer(&self, path: &str, headers: &HashMap<String, String>) -> Answer {
        let commit = self.commit.lock().unwrap().clone();
        if let Some(etag_asked) = path.strip_prefix("/storage/") {
            let found = [ADAPTER, ENCODER].into_iter().find(|file| etag(file) == etag_asked);
            return found.map_or_else(not_found, |file| ranged(content(file), headers));
        }
        if let Some(rest) = path.strip_prefix(&format!("/api/models/{REPO}")) {
            return match rest {
                "" | "/revision/main" => self.listing(&commit),
                _ if rest == format!("/revision/{commit}") => self.listing(&commit),
                _ if rest == format!("/tree/{commit}") => json_answer(&tree()),
                _ => not_found(),
            };
        }
        match path.strip_prefix(&format!("/{REPO}/resolve/")).and_then(|rest| rest.split_once('/')) {
            Some((revision, file)) if revision == commit || revision == "main" => self.resolve(&commit, file, headers),
            _ => not_found(),
        }
    }

    fn listing(&self, commit: &str) -> Answer {
        let gated = self.gate.lock().unwrap().is_some();
        let siblings = [ADAPTER, CONFIG, ENCODER].map(sibling);
        let mut listing = json!({
            "id": REPO, "modelId": REPO, "sha": commit, "private": false, "gated": if gated { json!("auto") } else { json!(false) },
            "cardData": {"license": "apache-2.0"},
            "siblings": siblings,
        });
        if let Some(change) = *self.listing.lock().unwrap() {
            change(&mut listing);
        }
        json_answer(&listing)
    }

    fn resolve(&self, commit: &str, file: &str, headers: &HashMap<String, String>) -> Answer {
        if ![ADAPTER, CONFIG, ENCODER].contains(&file) {
            return not_found().with("X-Error-Code", "EntryNotFound");
        }
        if let Some(token) = &*self.gate.lock().unwrap() {
            match headers.get("authorization") {
                Some(sent) if *sent == format!("Bearer {token}") => {}
                sent => {
                    let status = if sent.is_some() { 403 } else { 401 };
                    return Answer::new(status, Vec::new()).with("X-Error-Code", "GatedRepo");
                }
            }
        }
        let storage = self.storage.lock().unwrap().clone().filter(|_| file != CONFIG);
        let answer = match storage {
            Some(storage) => {
                let location = format!("{storage}/storage/{}?signature=secret", etag(file));
                Answer::new(302, Vec::new()).with("Location", location)
            }
            None => ranged(content(file), headers).with("ETag", format!("\"{}\"", etag(file))),
        };
        let size = content(file).len().to_string();
        let answer = answer.with("X-Repo-Commit", commit);
        if file == CONFIG {
            return answer;
        }
        answer.with("X-Linked-Etag", format!("\"{}\"", etag(file))).with("X-Linked-Size", size)
    }
}

fn sibling(file: &str) -> Value {
    let size = content(file).len();
    match file {
        CONFIG => json!({"rfilename": file, "size": size, "blobId": etag(file)}),
        _ => json!({
            "rfilename": file, "size": size, "blobId": "f".repeat(40),
            "lfs": {"sha256": etag(file), "size": size, "pointerSize": 134},
        }),
    }
}

fn tree() -> Value {
    let entry = |file: &str| {
        let size = content(file).len();
        match file {
            CONFIG => json!({"type": "file", "path": file, "size": size, "oid": etag(file)}),
            _ => json!({
                "type": "file", "path": file, "size": size, "oid": "f".repeat(40),
                "lfs": {"oid": etag(file), "size": size, "pointerSize": 134},
            }),
        }
    };
    Value::Array([ADAPTER, CONFIG, ENCODER].map(entry).into())
}

fn json_answer(value: &Value) -> Answer {
    Answer::new(200, value.to_string().into_bytes()).with("Content-Type", "application/json")
}

fn not_found() -> Answer {
    Answer::new(404, b"not here".to_vec())
}

fn ranged(mut bytes: Vec<u8>, headers: &HashMap<String, String>) -> Answer {
    let (start, len) = (range_start(headers), bytes.len());
    if start == 0 {
        return Answer::new(200, bytes).with("Accept-Ranges", "bytes");
    }
    if start >= len {
        return Answer::new(416, Vec::new()).with("Content-Range", format!("bytes */{len}"));
    }
    let range = format!("bytes {start}-{}/{len}", len - 1);
    Answer::new(206, bytes.split_off(start)).with("Content-Range", range)
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<(String, String, HashMap<String, String>)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(ToOwned::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    Some((method, target, headers))
}

/// Errors are those of a client that went away: nothing to do about.
fn send(mut stream: TcpStream, reader: &mut BufReader<TcpStream>, method: &str, answer: Answer, fault: Option<Fault>) {
    let mut body = answer.body;
    match fault {
        Some(Fault::Silent(None)) => return until_gone(reader),
        Some(Fault::Flipped) => body[0] ^= 1,
        Some(Fault::Short(by)) => body.truncate(body.len() - by),
        _ => {}
    }
    let mut head = format!("HTTP/1.1 {} x\r\nContent-Length: {}\r\nConnection: close\r\n", answer.status, body.len());
    answer.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    head.push_str("\r\n");
    let _ = stream.write_all(head.as_bytes());
    if method == "HEAD" {
        return;
    }
    match fault {
        Some(Fault::Cut(at)) => drop(stream.write_all(&body[..at.min(body.len())])),
        Some(Fault::Silent(Some(at))) => {
            let _ = stream.write_all(&body[..at.min(body.len())]);
            until_gone(reader);
        }
        Some(Fault::Slow(pause)) => body.chunks(PIECE_BYTES).for_each(|piece| {
            thread::sleep(pause);
            let _ = stream.write_all(piece);
        }),
        _ => drop(stream.write_all(&body)),
    }
}

/// Waits for the client to give up.
fn until_gone(reader: &mut BufReader<TcpStream>) {
    let _ = reader.read(&mut [0]);
}
