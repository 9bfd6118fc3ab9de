//! Takes out of wheels (zip archives) what a libtorch folder is made of.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use zip::ZipArchive;

/// What a file of torch's `lib` folder belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Every program is linked with it.
    Cpu,
    /// The CUDA backend; beside the CPU parts torch-sys would link it into every program.
    Cuda,
    /// Of use to Python alone.
    Python,
}

/// The part that a library belongs to, by its file name.
pub(crate) fn part_of(library: &str) -> Part {
    let names = |words: &[&str]| words.iter().any(|word| library.contains(word));
    match library {
        _ if names(&["torch_python", "_C.lib"]) => Part::Python,
        _ if names(&["cuda", "nvrtc", "nvshmem"]) => Part::Cuda,
        _ => Part::Cpu,
    }
}

/// Headers and CPU libraries of the torch wheel, into `include` and `lib` of `folder`.
pub(crate) fn cpu_parts(wheel: &Path, folder: &Path) -> Result<()> {
    unpack(wheel, |path| {
        if let Ok(header) = path.strip_prefix("torch/include") {
            return Some(folder.join("include").join(header));
        }
        // Some builds keep libraries that were added when the wheel was repaired in `torch.libs`.
        let library = name_in(path, "torch/lib").or_else(|| name_in(path, "torch.libs"))?;
        (part_of(library) == Part::Cpu).then(|| folder.join("lib").join(library))
    })
}

/// The CUDA libraries of the torch wheel, into `folder`.
pub(crate) fn cuda_parts(wheel: &Path, folder: &Path) -> Result<()> {
    unpack(wheel, |path| {
        let library = name_in(path, "torch/lib")?;
        (part_of(library) == Part::Cuda).then(|| folder.join(library))
    })
}

/// The shared libraries of a wheel that are wanted by their file name, into `folder`.
pub(crate) fn libraries(wheel: &Path, folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    unpack(wheel, |path| {
        let name = path.file_name()?.to_str()?;
        (is_shared_library(name) && wanted(name)).then(|| folder.join(name))
    })
}

/// The wheel's own statement of what it needs.
pub(crate) fn metadata(wheel: &Path) -> Result<String> {
    let mut archive = open(wheel)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        if entry.name()?.ends_with(".dist-info/METADATA") {
            let mut text = String::new();
            entry.read_to_string(&mut text)?;
            return Ok(text);
        }
    }
    bail!("{} has no METADATA", wheel.display())
}

/// `libcudart.so.13`, not `libcudart_static.a`.
pub(crate) fn is_shared_library(name: &str) -> bool {
    name.ends_with(".so") || name.contains(".so.")
}

fn unpack(wheel: &Path, place: impl Fn(&Path) -> Option<PathBuf>) -> Result<()> {
    let damaged = || format!("cannot unpack {}; if it is damaged, delete it and run this again", wheel.display());
    let mut archive = open(wheel)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).with_context(damaged)?;
        // A name that leaves its folder is no part of a wheel.
        let Some(path) = entry.enclosed_name().filter(|path| entry.is_file() && is_plain(path)) else { continue };
        let Some(place) = place(&path) else { continue };
        let writing = || format!("cannot write {}", place.display());
        fs::create_dir_all(place.parent().expect("a place in a folder")).with_context(writing)?;
        let mut file = File::create(&place).with_context(writing)?;
        io::copy(&mut entry, &mut file).with_context(writing).with_context(damaged)?;
        file.sync_all().with_context(writing)?;
    }
    Ok(())
}

/// The file's name, if it lies in `folder` itself.
fn name_in<'a>(path: &'a Path, folder: &str) -> Option<&'a str> {
    path.strip_prefix(folder).ok()?.to_str().filter(|name| !name.contains(['/', '\\']))
}

fn is_plain(path: &Path) -> bool {
    path.components().all(|component| matches!(component, Component::Normal(_)))
}

fn open(wheel: &Path) -> Result<ZipArchive<BufReader<File>>> {
    let file = File::open(wheel).with_context(|| format!("cannot open {}", wheel.display()))?;
    ZipArchive::new(BufReader::new(file))
        .with_context(|| format!("{} is damaged: delete it and run this again", wheel.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::*;

    fn wheel(folder: &Path, names: &[&str]) -> PathBuf {
        let path = folder.join("torch-2.11.0-cp311-cp311-any.whl");
        let mut writer = ZipWriter::new(File::create(&path).unwrap());
        for name in names {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(name.as_bytes()).unwrap();
        }
        writer.finish().unwrap();
        path
    }

    #[test]
    fn libraries_are_sorted_into_parts() {
        for cpu in
            ["libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libnvpl_blas_core.so.0", "torch_cpu.lib", "c10.dll"]
        {
            assert_eq!(part_of(cpu), Part::Cpu, "{cpu}");
        }
        for cuda in ["libtorch_cuda.so", "libc10_cuda.so", "libcaffe2_nvrtc.so", "libtorch_nvshmem.so"] {
            assert_eq!(part_of(cuda), Part::Cuda, "{cuda}");
        }
        assert_eq!(part_of("libtorch_python.so"), Part::Python);
    }

    #[test]
    fn only_what_libtorch_is_made_of_is_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let names = [
            "torch/include/ATen/ATen.h",
            "torch/lib/libc10.so",
            "torch/lib/libtorch_cuda.so",
            "torch/nn.py",
            "../lib/x",
        ];
        let wheel = wheel(folder.path(), &names);
        cpu_parts(&wheel, &folder.path().join("made")).unwrap();
        cuda_parts(&wheel, &folder.path().join("made/cuda")).unwrap();
        let there = |path: &str| folder.path().join("made").join(path).is_file();
        assert!(there("include/ATen/ATen.h") && there("lib/libc10.so") && there("cuda/libtorch_cuda.so"));
        assert!(!there("lib/libtorch_cuda.so") && !there("nn.py"));
        assert!(!folder.path().join("lib").exists());
    }

    #[test]
    fn shared_libraries_are_told_from_static_ones() {
        assert!(is_shared_library("libcudart.so.13") && is_shared_library("libnvToolsExt.so"));
        assert!(!is_shared_library("libcudart_static.a"));
    }

    #[test]
    fn half_a_wheel_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = wheel(folder.path(), &["torch/lib/libc10.so"]);
        let bytes = fs::read(&wheel).unwrap();
        fs::write(&wheel, &bytes[..bytes.len() / 2]).unwrap();
        assert!(cpu_parts(&wheel, &folder.path().join("made")).unwrap_err().to_string().contains("damaged"));
    }
}
