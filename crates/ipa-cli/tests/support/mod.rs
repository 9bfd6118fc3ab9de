//! Running the program: what it is told, and how it ends.
#![allow(dead_code)] // each test file uses a part

pub(crate) mod files;

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use files::tiny_sd;
use serde_json::Value;

/// The program that cargo built for these tests.
const PROGRAM: &str = env!("CARGO_BIN_EXE_ipa");

/// What a failure must never show to a user.
const PANIC_WORDS: [&str; 5] = ["panicked", "RUST_BACKTRACE", "unwrap()", "Exception raised", "mistake of the program"];

/// A call of `ipa`, argument by argument.
#[derive(Clone)]
pub(crate) struct Ipa(Vec<OsString>);

impl Ipa {
    /// One of its commands.
    pub(crate) fn new(command: &str) -> Self {
        Self(vec![command.into()])
    }

    /// A command that computes with a model; where every machine gives the same numbers.
    pub(crate) fn on(command: &str, model: &Path) -> Self {
        Self::new(command).with("--model", model).with("--device", "cpu").with("--dtype", "f32")
    }

    /// One small picture of a prompt, in two steps.
    pub(crate) fn generate(model: &Path, output: &Path) -> Self {
        let command = Self::on("generate", model).with("--prompt", "a red circle").with("--steps", "2");
        command.with("--width", "64").with("--height", "64").with("--output", output)
    }

    /// The embedding of one picture by an adapter for the tiny model.
    pub(crate) fn embed(adapter: &Path, image: &Path, output: &Path) -> Self {
        let command = Self::on("embed", &tiny_sd("")).with("--adapter", adapter);
        command.with("--image", image).with("--output", output)
    }

    /// A training of the tiny model on small pictures, `data` being the folder of a data.json.
    pub(crate) fn train(data: &Path, output: &Path) -> Self {
        let command = Self::on("train", &tiny_sd("")).with("--data", data.join("data.json"));
        command.with("--resolution", "64").with("--output", output)
    }

    /// The same arguments for a search over settings.
    pub(crate) fn tuned(mut self) -> Self {
        self.0[0] = "tune".into();
        self
    }

    /// With the tiny model's adapter and a reference picture for it.
    pub(crate) fn with_reference(self) -> Self {
        let image = files::fixture("pictures/wide.png");
        self.with("--adapter", tiny_sd("ip_adapter.safetensors")).with("--image", image)
    }

    /// Sets a flag; a value it had is replaced.
    pub(crate) fn with(mut self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        match self.0.iter().position(|argument| argument == flag) {
            Some(place) => self.0[place + 1] = value.as_ref().to_owned(),
            None => self.0.extend([flag.into(), value.as_ref().to_owned()]),
        }
        self
    }

    /// Adds an argument: a flag without value, or the value of none.
    pub(crate) fn and(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.0.push(argument.as_ref().to_owned());
        self
    }

    /// Runs it to its end.
    pub(crate) fn run(self) -> Ended {
        self.start().ended()
    }

    /// Starts it.
    pub(crate) fn start(self) -> Running {
        let mut command = Command::new(PROGRAM);
        command.args(self.0);
        Running::new(command)
    }

    /// Runs it in a folder.
    pub(crate) fn run_in(self, folder: &Path) -> Ended {
        let mut command = Command::new(PROGRAM);
        command.args(self.0).current_dir(folder);
        Running::new(command).ended()
    }

    /// Runs it for a user whose cache folder is `cache`.
    pub(crate) fn run_with_cache(self, cache: &Path) -> Ended {
        self.start_with_cache(cache).ended()
    }

    /// Starts it for such a user.
    pub(crate) fn start_with_cache(self, cache: &Path) -> Running {
        let mut command = Command::new(PROGRAM);
        command.args(self.0).env("XDG_CACHE_HOME", cache).env("HOME", cache).env("LOCALAPPDATA", cache);
        Running::new(command)
    }

    /// Runs it where no file can grow beyond `blocks` of 512 bytes: to the program that is a disk that fills up in the
    /// middle of a file, for which no privileges are needed.
    pub(crate) fn run_on_a_full_disk(self, blocks: u32) -> Ended {
        let mut command = Command::new("sh");
        // Without the trap the system would end the program in place of refusing the write.
        command.args(["-c", "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\"", &blocks.to_string(), PROGRAM]);
        command.args(self.0);
        Running::new(command).ended()
    }
}

/// A program that was started; killed if a test is done with it before its end.
pub(crate) struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    fn new(mut command: Command) -> Self {
        command.env("OMP_NUM_THREADS", "1").env_remove("RUST_BACKTRACE"); // tests share the cores
        for name in ["HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE"] {
            command.env_remove(name);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    /// Waits for the next line of standard output; empty at its end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    /// Number of the process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, such as `INT`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Whether it ended already.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    pub(crate) fn ended(mut self) -> Ended {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.stdout.read_to_string(&mut stdout).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        Ended { code: self.child.wait().unwrap().code(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit status, `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Asserts that it did what it was told.
    #[track_caller]
    pub(crate) fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Asserts that it ended with this status and one error, which holds every one of `words` and no panic.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        let errors = self.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors, 1, "{self:#?}");
        let missing: Vec<_> = words.iter().filter(|word| !self.stderr.contains(**word)).collect();
        assert!(missing.is_empty(), "nothing of {missing:?} in {self:#?}");
        let panic: Vec<_> = PANIC_WORDS.iter().filter(|word| self.stderr.contains(**word)).collect();
        assert!(panic.is_empty(), "{panic:?} in {self:#?}");
        self
    }

    /// The objects on standard output, one a line and nothing else.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let object = |line: &str| match serde_json::from_str(line) {
            Ok(value @ Value::Object(_)) => value,
            _ => panic!("`{line}` is not an object in {self:#?}"),
        };
        self.stdout.lines().map(object).collect()
    }
}
