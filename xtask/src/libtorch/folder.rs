//! What makes a folder a usable libtorch.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{VERSION, elf};
use crate::python::public_version;

/// Written last into a folder that set-up makes; torch-sys reads it too.
pub(crate) const MARKER: &str = "build-version";

/// Refuses a folder that lacks headers or libraries or is another version, and says what is wrong.
pub(crate) fn check(folder: &Path) -> Result<()> {
    let library = folder.join("lib").join(file_name("torch_cpu"));
    if !library.is_file() {
        bail!("{} is not there", library.display());
    }
    match version(folder) {
        Some(version) if version == VERSION => Ok(()),
        Some(version) => bail!("{} is libtorch {version}, needed is {VERSION}", folder.display()),
        None => bail!("{} has no headers that tell its version", folder.display()),
    }
}

/// Whether set-up made this folder to the end.
pub(crate) fn is_finished(folder: &Path) -> bool {
    fs::read_to_string(folder.join(MARKER)).is_ok_and(|version| public_version(&version) == VERSION)
}

/// Where a folder is put together before it gets its name.
pub(crate) fn partial(folder: &Path) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// An empty folder, whatever was there.
pub(crate) fn start_over(folder: &Path) -> Result<()> {
    let making = || format!("cannot make {}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(making)?;
    }
    fs::create_dir_all(folder).with_context(making)
}

/// Checks what was put together in `partial`, marks it as whole and gives it its own name.
pub(crate) fn finish(partial: &Path, folder: &Path) -> Result<()> {
    check(partial)?;
    let marker = partial.join(MARKER);
    fs::write(&marker, VERSION)
        .and_then(|()| File::options().append(true).open(&marker)?.sync_all())
        .with_context(|| format!("cannot write {}", marker.display()))?;
    put_in_place(partial, folder)
}

/// Renames `partial` to `folder`, replacing it: a reader sees the old one, none, or the whole new one.
pub(crate) fn put_in_place(partial: &Path, folder: &Path) -> Result<()> {
    let moving = || format!("cannot move {} to {}", partial.display(), folder.display());
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(moving)?;
    }
    fs::rename(partial, folder).with_context(moving)?;
    if cfg!(unix) {
        // The new name itself reaches the disk with its parent folder.
        File::open(folder.parent().expect("a folder in the cache"))?.sync_all().with_context(moving)?;
    }
    Ok(())
}

/// Whether the CUDA backend is where a program will look for it.
pub(crate) fn has_cuda(folder: &Path) -> bool {
    let name = file_name("torch_cuda");
    folder.join("lib").join(&name).is_file() || folder.join("cuda").join(&name).is_file()
}

/// The libraries that the CPU parts need and that are neither beside them nor part of the system. Linux only:
/// the wheels of other systems bring everything.
pub(crate) fn missing_libraries(lib: &Path) -> Result<Vec<String>> {
    if !cfg!(target_os = "linux") {
        return Ok(Vec::new());
    }
    let mut seen = vec![file_name("torch_cpu")];
    let mut missing = Vec::new();
    let mut next = 0;
    while let Some(name) = seen.get(next).cloned() {
        next += 1;
        if !lib.join(&name).is_file() {
            missing.push(name);
            continue;
        }
        let needed = elf::needed(&lib.join(&name)).with_context(|| format!("cannot read {name}"))?;
        for library in needed.into_iter().filter(|library| !is_system(library)) {
            if !seen.contains(&library) {
                seen.push(library);
            }
        }
    }
    Ok(missing)
}

/// What a library's file is called here.
pub(crate) fn file_name(library: &str) -> String {
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    format!("{prefix}{library}{suffix}")
}

fn is_system(library: &str) -> bool {
    const SYSTEM: [&str; 9] = [
        "libc.so",
        "libm.so",
        "libdl.so",
        "librt.so",
        "libutil.so",
        "libpthread.so",
        "libgcc_s.so",
        "libstdc++.so",
        "ld-linux",
    ];
    SYSTEM.iter().any(|name| library.starts_with(name))
}

fn version(folder: &Path) -> Option<String> {
    // The second is where versions before the first existed had it.
    let headers: [PathBuf; 2] = [
        folder.join("include/torch/headeronly/version.h"),
        folder.join("include/torch/csrc/api/include/torch/version.h"),
    ];
    headers.iter().find_map(|header| version_in(&fs::read_to_string(header).ok()?))
}

fn version_in(header: &str) -> Option<String> {
    let number = |part| {
        let define = format!("#define TORCH_VERSION_{part} ");
        header.lines().find_map(|line| line.strip_prefix(&define)).map(str::trim)
    };
    Some(format!("{}.{}.{}", number("MAJOR")?, number("MINOR")?, number("PATCH")?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HEADER: &str = "#pragma once\n\n#define TORCH_VERSION_MAJOR 2\n\n#define TORCH_VERSION_MINOR 11\n\n\
                          #define TORCH_VERSION_PATCH 0\n\n#define TORCH_VERSION \\\n  \"2.11.0\"\n";

    fn libtorch(header: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let headers = folder.path().join("include/torch/headeronly");
        fs::create_dir_all(&headers).unwrap();
        fs::create_dir(folder.path().join("lib")).unwrap();
        fs::write(headers.join("version.h"), header).unwrap();
        fs::write(folder.path().join("lib").join(file_name("torch_cpu")), "").unwrap();
        folder
    }

    #[test]
    fn the_version_is_read_from_the_header() {
        assert_eq!(version_in(HEADER).as_deref(), Some("2.11.0"));
        assert_eq!(version_in("#include <torch/headeronly/version.h>"), None);
    }

    #[test]
    fn a_whole_folder_is_accepted() {
        check(libtorch(HEADER).path()).unwrap();
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let folder = libtorch(&HEADER.replace("MINOR 11", "MINOR 9"));
        assert!(check(folder.path()).unwrap_err().to_string().contains("libtorch 2.9.0, needed is 2.11.0"));
    }

    #[test]
    fn headers_without_the_library_are_refused() {
        let folder = libtorch(HEADER);
        fs::remove_file(folder.path().join("lib").join(file_name("torch_cpu"))).unwrap();
        assert!(check(folder.path()).is_err());
    }

    #[test]
    fn a_half_made_folder_never_gets_the_name_of_a_whole_one() {
        let half = libtorch("");
        let whole = half.path().with_extension("whole");
        assert!(finish(half.path(), &whole).is_err());
        assert!(!whole.exists() && !is_finished(half.path()));
    }

    #[test]
    fn a_folder_without_its_marker_is_not_finished() {
        let folder = libtorch(HEADER);
        assert!(!is_finished(folder.path()));
        fs::write(folder.path().join(MARKER), "2.11.0\n").unwrap();
        assert!(is_finished(folder.path()));
        fs::write(folder.path().join(MARKER), "2.9.0").unwrap();
        assert!(!is_finished(folder.path()));
    }
}
