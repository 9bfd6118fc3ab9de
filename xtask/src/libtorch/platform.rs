//! Which wheel serves which machine.

use std::env::consts::{ARCH, OS};

use anyhow::{Result, bail};

/// A machine that published wheels of the right libtorch exist for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Platform {
    LinuxX86_64,
    LinuxAarch64,
    MacosArm64,
    WindowsX86_64,
}

impl Platform {
    /// The machine this program was built for.
    ///
    /// # Errors
    /// If no wheel serves it.
    pub(crate) fn here() -> Result<Self> {
        Self::of(OS, ARCH)
    }

    fn of(os: &str, arch: &str) -> Result<Self> {
        match (os, arch) {
            ("linux", "x86_64") => Ok(Self::LinuxX86_64),
            ("linux", "aarch64") => Ok(Self::LinuxAarch64),
            ("macos", "aarch64") => Ok(Self::MacosArm64),
            ("windows", "x86_64") => Ok(Self::WindowsX86_64),
            _ => bail!("no libtorch is published for {os} on {arch}: build one and set LIBTORCH to its folder"),
        }
    }

    /// The name in file names.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LinuxX86_64 => "linux-x86_64",
            Self::LinuxAarch64 => "linux-aarch64",
            Self::MacosArm64 => "macos-arm64",
            Self::WindowsX86_64 => "windows-x86_64",
        }
    }

    /// The platform tags of the wheels that run here. pip takes a tag literally, and the wheels beside torch's
    /// carry older ones (`manylinux_2_25`), so every tag that torch's own wheel implies is listed.
    pub(crate) fn wheel_tags(self) -> Vec<String> {
        let manylinux = |arch| {
            let numbered = (17..=28).rev().map(move |minor| format!("manylinux_2_{minor}_{arch}"));
            numbered.chain([format!("manylinux2014_{arch}")]).collect()
        };
        match self {
            Self::LinuxX86_64 => manylinux("x86_64"),
            Self::LinuxAarch64 => manylinux("aarch64"),
            Self::MacosArm64 => vec!["macosx_11_0_arm64".to_owned()],
            Self::WindowsX86_64 => vec!["win_amd64".to_owned()],
        }
    }

    /// Whether the published wheel has a CUDA backend in it.
    pub(crate) fn wheel_has_cuda(self) -> bool {
        matches!(self, Self::LinuxX86_64 | Self::LinuxAarch64)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_machine_takes_its_own_wheel() {
        let tag = |os, arch| Platform::of(os, arch).unwrap().wheel_tags()[0].clone();
        assert_eq!(tag("linux", "x86_64"), "manylinux_2_28_x86_64");
        assert_eq!(tag("linux", "aarch64"), "manylinux_2_28_aarch64");
        assert_eq!(tag("macos", "aarch64"), "macosx_11_0_arm64");
        assert_eq!(tag("windows", "x86_64"), "win_amd64");
    }

    #[test]
    fn older_linux_tags_are_accepted_for_the_wheels_beside_torch() {
        let tags = Platform::LinuxX86_64.wheel_tags();
        assert!(tags.contains(&"manylinux_2_25_x86_64".to_owned()));
        assert!(tags.contains(&"manylinux2014_x86_64".to_owned()));
    }

    #[test]
    fn a_machine_without_a_wheel_is_told_the_other_way() {
        assert!(Platform::of("macos", "x86_64").unwrap_err().to_string().contains("LIBTORCH"));
    }
}
