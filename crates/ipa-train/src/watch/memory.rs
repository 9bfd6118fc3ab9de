//! Memory of this process.

/// Bytes of this process in main memory; none where the system does not tell, as only Linux does. What lies on a card is
/// not in it.
pub fn resident_bytes() -> Option<u64> {
    // Not statm: that counts pages, and how large they are is another question to the system.
    number(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The most that it was.
pub fn peak_bytes() -> Option<u64> {
    number(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Bytes of main memory that the machine has; none where the system does not tell, as only Linux does.
pub fn total_bytes() -> Option<u64> {
    number(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

fn number(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_found_and_counted_in_bytes() {
        let resident = |status: &str| number(status, "VmRSS:");
        assert_eq!(resident("Name:\tipa\nVmHWM:\t  99 kB\nVmRSS:\t    1024 kB\n"), Some(1 << 20));
        assert_eq!([resident(""), resident("VmRSS: many kB"), resident("VmRSS: 5")], [None; 3]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_takes_memory() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert!(peak_bytes() >= resident_bytes() && total_bytes() > peak_bytes());
    }
}
