//! Memory in use, as far as the system tells: main memory, on Linux.

use std::fs;

use ipa_core::tch::Device;
use serde::Serialize;

const GIB: f64 = (1_u64 << 30) as f64;

/// Memory of a run in GiB.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Memory {
    /// The most there was.
    pub(super) peak_gib: f64,
    /// What was there before the first call: weights, and the program itself.
    pub(super) weights_gib: f64,
    /// The difference.
    pub(super) above_weights_gib: f64,
}

/// What is in use on a device, now that the weights are there.
pub(super) struct Before {
    device: Device,
    gib: Option<f64>,
}

impl Before {
    /// The peak is that of what comes after this.
    pub(super) fn now(device: Device) -> Self {
        let gib = match device {
            Device::Cpu => {
                // Refused in some containers; then it is the peak since the program began.
                let _ = fs::write("/proc/self/clear_refs", "5");
                status("VmRSS")
            }
            _ => None, // of a card libtorch's bindings tell nothing
        };
        Self { device, gib }
    }

    /// What was used since; `None` where nothing tells.
    pub(super) fn until_now(&self) -> Option<Memory> {
        let weights_gib = self.gib?;
        let peak_gib = match self.device {
            Device::Cpu => status("VmHWM")?,
            _ => return None,
        };
        Some(Memory { peak_gib, weights_gib, above_weights_gib: peak_gib - weights_gib })
    }
}

fn status(name: &str) -> Option<f64> {
    entry(&fs::read_to_string("/proc/self/status").ok()?, name)
}

/// Of `VmRSS:  16384 kB`, which are 1024 bytes each.
fn entry(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? * 1024.0 / GIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_tells_is_understood() {
        assert_eq!(entry("VmHWM:\t 2097152 kB\nVmRSS:\t 1048576 kB\n", "VmRSS"), Some(1.0));
        assert_eq!(entry("VmHWM:\t 2097152 kB\n", "VmRSS"), None);
    }

    #[test]
    fn the_peak_is_that_since_then() {
        if status("VmHWM").is_none() {
            return; // no Linux
        }
        let before = Before::now(Device::Cpu);
        let touched = vec![1_u8; 64 << 20];
        let memory = before.until_now().expect("told before");
        assert!(memory.above_weights_gib > 0.05, "{memory:?} after {} bytes", touched.len());
    }
}
