//! Devices and number kinds, by the names users give them.

use std::str::FromStr;
use std::sync::Once;

use tch::{Device, Kind};

/// Why a device or kind cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The name is not one of the known ones.
    #[error("`{name}` is not a device; choose auto, cpu, cuda, cuda:N or mps")]
    UnknownDevice {
        /// As given.
        name: String,
    },
    /// The machine or the libtorch at hand lacks it.
    #[error("device `{name}` is not available here ({reason}); `ipa doctor` shows what is")]
    Unavailable {
        /// As given.
        name: String,
        /// What is missing.
        reason: &'static str,
    },
    /// The kind is not one of the known ones.
    #[error("`{name}` is not a number kind; choose auto, f32, f16 or bf16")]
    UnknownKind {
        /// As given.
        name: String,
    },
}

/// The device named `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; `auto` prefers CUDA, then MPS.
///
/// # Errors
/// [`DeviceError`] if the name is unknown or the device is not there.
pub fn parse_device(name: &str) -> Result<Device, DeviceError> {
    load_cuda_backend();
    let unavailable = |reason| DeviceError::Unavailable { name: name.to_owned(), reason };
    match name {
        "auto" => Ok(best_device()),
        "cpu" => Ok(Device::Cpu),
        "mps" if tch::utils::has_mps() => Ok(Device::Mps),
        "mps" => Err(unavailable("libtorch was built without MPS")),
        _ => {
            let index = match name.strip_prefix("cuda") {
                Some("") => Some(0),
                Some(rest) => rest.strip_prefix(':').and_then(|index| usize::from_str(index).ok()),
                None => None,
            };
            let index = index.ok_or_else(|| DeviceError::UnknownDevice { name: name.to_owned() })?;
            match usize::try_from(tch::Cuda::device_count()).unwrap_or_default() {
                0 => Err(unavailable("no CUDA device or no libtorch_cuda")),
                count if index < count => Ok(Device::Cuda(index)),
                _ => Err(unavailable("there are fewer CUDA devices")),
            }
        }
    }
}

/// The kind named `auto`, `f32`, `f16` or `bf16`; `auto` takes bf16 on CUDA cards that have it (compute
/// capability 8), f16 on other cards and MPS, f32 on the CPU.
///
/// # Errors
/// [`DeviceError::UnknownKind`].
pub fn parse_kind(name: &str, device: Device) -> Result<Kind, DeviceError> {
    match name {
        "auto" => Ok(match device {
            Device::Cuda(index) if compute_capability(index).is_some_and(|(major, _)| major >= 8) => Kind::BFloat16,
            Device::Cuda(_) | Device::Mps => Kind::Half,
            _ => Kind::Float,
        }),
        "f32" => Ok(Kind::Float),
        "f16" => Ok(Kind::Half),
        "bf16" => Ok(Kind::BFloat16),
        _ => Err(DeviceError::UnknownKind { name: name.to_owned() }),
    }
}

/// Whether a CPU computes in half precision by way of f32, which takes longer than f32 itself.
///
/// That is so where its instructions have no arithmetic of that kind: `avx512_fp16` and `avx512_bf16` on x86-64, `fp16`
/// and `bf16` on Arm.
pub fn is_emulated(device: Device, kind: Kind) -> bool {
    device == Device::Cpu
        && match kind {
            Kind::Half => !has_f16(),
            Kind::BFloat16 => !has_bf16(),
            _ => false,
        }
}

#[cfg(target_arch = "x86_64")]
fn has_f16() -> bool {
    std::arch::is_x86_feature_detected!("avx512fp16")
}

#[cfg(target_arch = "x86_64")]
fn has_bf16() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(target_arch = "aarch64")]
fn has_f16() -> bool {
    std::arch::is_aarch64_feature_detected!("fp16")
}

#[cfg(target_arch = "aarch64")]
fn has_bf16() -> bool {
    std::arch::is_aarch64_feature_detected!("bf16")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_f16() -> bool {
    false
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_bf16() -> bool {
    false
}

/// The name [`parse_kind`] knows a kind by.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Half => "f16",
        Kind::BFloat16 => "bf16",
        Kind::Float => "f32",
        _ => "other",
    }
}

/// The name [`parse_device`] knows a device by.
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cpu => "cpu".to_owned(),
        Device::Cuda(index) => format!("cuda:{index}"),
        Device::Mps => "mps".to_owned(),
        Device::Vulkan => "vulkan".to_owned(),
    }
}

fn best_device() -> Device {
    if tch::Cuda::is_available() {
        Device::Cuda(0)
    } else if tch::utils::has_mps() {
        Device::Mps
    } else {
        Device::Cpu
    }
}

/// Registers libtorch's CUDA backend if this machine has one.
///
/// The program is linked with the CPU libraries alone, so that it starts everywhere; the backend registers itself when
/// its library is loaded. That must come before the first question about CUDA, whose answer libtorch keeps: one asked
/// too early is "no" for ever. The library is looked for by name, so in `LD_LIBRARY_PATH` and the program's own rpath,
/// to which `build.rs` adds the `cuda` folder that `cargo xtask libtorch --cuda` makes beside libtorch.
pub fn load_cuda_backend() {
    static LOADED: Once = Once::new();
    LOADED.call_once(|| {
        if cfg!(target_os = "macos") {
            return;
        }
        let name = libloading::library_filename("torch_cuda");
        // SAFETY: libtorch's own initialisers run; the library stays loaded for the life of the process.
        if let Ok(library) = unsafe { libloading::Library::new(&name) } {
            std::mem::forget(library);
        }
    });
}

/// Major and minor compute capability of a CUDA device, from the driver.
pub fn compute_capability(index: usize) -> Option<(i32, i32)> {
    const MAJOR: i32 = 75;
    const MINOR: i32 = 76;
    type Init = unsafe extern "C" fn(u32) -> i32;
    type Attribute = unsafe extern "C" fn(*mut i32, i32, i32) -> i32;
    // SAFETY: the signatures are those of the CUDA driver's published C interface.
    unsafe {
        let driver = libloading::Library::new(if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" }).ok()?;
        let init: libloading::Symbol<Init> = driver.get(b"cuInit\0").ok()?;
        let attribute: libloading::Symbol<Attribute> = driver.get(b"cuDeviceGetAttribute\0").ok()?;
        let (mut major, mut minor) = (0, 0);
        let device = i32::try_from(index).ok()?;
        let all_well =
            init(0) == 0 && attribute(&mut major, MAJOR, device) == 0 && attribute(&mut minor, MINOR, device) == 0;
        all_well.then_some((major, minor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_are_refused_with_the_known_ones() {
        let message = parse_device("gpu").expect_err("no such device").to_string();
        assert!(message.contains("cuda:N"), "{message}");
        assert!(parse_device("cuda:x").is_err());
        assert!(parse_device(&format!("cuda:{}", u64::MAX)).is_err());
        assert!(parse_kind("f8", Device::Cpu).is_err());
    }

    #[test]
    fn the_cpu_computes_in_f32() {
        assert!(matches!(parse_device("cpu"), Ok(Device::Cpu)));
        assert!(matches!(parse_kind("auto", Device::Cpu), Ok(Kind::Float)));
    }
}
