//! What the demo ran on.

use std::fs;

use ipa_core::device::{device_name, kind_name};
use ipa_core::tch::{self, Device, Kind};
use serde::Serialize;

/// A machine as report.json names it; only Linux tells processor and memory.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) device: String,
    pub(crate) dtype: &'static str,
    pub(crate) threads: i32,
    pub(crate) cores: Option<usize>,
    pub(crate) processor: Option<String>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) system: String,
    pub(crate) program: &'static str,
}

impl Machine {
    /// This machine, computing with these options.
    pub(crate) fn this((device, kind): (Device, Kind)) -> Self {
        Self {
            device: device_name(device),
            dtype: kind_name(kind),
            threads: tch::get_num_threads(),
            cores: std::thread::available_parallelism().ok().map(usize::from),
            processor: entry("/proc/cpuinfo", "model name"),
            memory_bytes: entry("/proc/meminfo", "MemTotal").as_deref().and_then(bytes),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            program: concat!("ipa ", env!("CARGO_PKG_VERSION")),
        }
    }

    /// The same for people.
    pub(crate) fn facts(&self) -> Vec<(&'static str, String)> {
        let facts = [
            ("Device", Some(format!("{}, {}", self.device, self.dtype))),
            ("Processor", self.processor.clone()),
            ("Cores", self.cores.map(|cores| cores.to_string())),
            ("Threads", Some(self.threads.to_string())),
            ("Memory", self.memory_bytes.map(|bytes| format!("{:.0} GiB", bytes as f64 / f64::from(1 << 30)))),
            ("System", Some(self.system.clone())),
            ("Program", Some(self.program.to_owned())),
        ];
        facts.into_iter().filter_map(|(name, fact)| Some((name, fact?))).collect()
    }
}

/// The first value of a name in a file of `name : value` lines.
fn entry(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(found, _)| found.trim() == name).map(|(_, value)| value.trim().to_owned())
}

/// Of `16384 kB`, which are 1024 bytes each.
fn bytes(text: &str) -> Option<u64> {
    text.strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_in_bytes() {
        assert_eq!(bytes("16384 kB"), Some(16 << 20));
        assert_eq!([bytes("16384"), bytes("many kB")], [None, None]);
    }
}
