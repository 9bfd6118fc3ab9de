//! The libtorch inside an installed Python torch, found without importing it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::link::symlink;
use super::platform::Platform;
use super::unpack::{Part, is_shared_library, part_of};
use super::{VERSION, folder};
use crate::python;

/// The first usable one. A CUDA build is offered as a folder of links that keeps the CUDA parts apart.
pub(crate) fn find(cache: &Path, platform: Platform) -> Option<PathBuf> {
    python::interpreters().iter().find_map(|python| {
        let torch = package(python)?;
        usable(&torch, cache, platform)
            .inspect_err(|reason| eprintln!("passing over the torch of {}: {reason:#}", python.display()))
            .ok()
    })
}

/// The package's folder, if it is the right version.
fn package(python: &OsString) -> Option<PathBuf> {
    python::installed_version(python, "torch").filter(|version| version == VERSION)?;
    let script = "import sys, importlib.util as u; print(u.find_spec(sys.argv[1]).submodule_search_locations[0])";
    python::ask(python, script, "torch").map(PathBuf::from)
}

fn usable(torch: &Path, cache: &Path, platform: Platform) -> Result<PathBuf> {
    folder::check(torch)?;
    if platform.wheel_has_cuda() && torch.join("lib").join(folder::file_name("torch_cuda")).is_file() {
        return linked(torch, &cache.join(format!("libtorch-{VERSION}-{}-python", platform.name())));
    }
    match folder::missing_libraries(&torch.join("lib"))? {
        missing if missing.is_empty() => Ok(torch.to_owned()),
        missing => bail!("it lacks {}", missing.join(", ")),
    }
}

/// A folder that links to the package: the CPU libraries in `lib`, where torch-sys looks, the others in `cuda`.
fn linked(torch: &Path, folder: &Path) -> Result<PathBuf> {
    let partial = folder::partial(folder);
    folder::start_over(&partial)?;
    let [lib, cuda] = ["lib", "cuda"].map(|name| partial.join(name));
    fs::create_dir(&lib)?;
    fs::create_dir(&cuda)?;
    symlink(&torch.join("include"), &partial.join("include"))?;
    for library in files(&torch.join("lib"))? {
        match part_of(&name_of(&library)) {
            Part::Cpu => symlink(&library, &lib.join(name_of(&library)))?,
            Part::Cuda => symlink(&library, &cuda.join(name_of(&library)))?,
            Part::Python => {}
        }
    }
    let beside = libraries_beside(torch)?;
    for missing in folder::missing_libraries(&lib)? {
        let library = beside.iter().find(|library| name_of(library) == missing);
        symlink(library.with_context(|| format!("{missing} is not beside it"))?, &lib.join(&missing))?;
    }
    for library in beside.iter().filter(|library| !cuda.join(name_of(library)).exists()) {
        symlink(library, &cuda.join(name_of(library)))?;
    }
    folder::finish(&partial, folder)?;
    Ok(folder.to_owned())
}

/// The shared libraries of the wheels that torch's own wheel requires: `torch.libs` and `nvidia/*/lib`.
fn libraries_beside(torch: &Path) -> Result<Vec<PathBuf>> {
    let site = torch.parent().context("a package lies in a folder")?;
    let nvidia = files(&site.join("nvidia"))?.into_iter().map(|package| package.join("lib"));
    let mut found = Vec::new();
    for folder in nvidia.chain([site.join("torch.libs")]) {
        found.extend(files(&folder)?.into_iter().filter(|file| is_shared_library(&name_of(file))));
    }
    Ok(found)
}

/// What a folder holds, in order; nothing if it is not there.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
