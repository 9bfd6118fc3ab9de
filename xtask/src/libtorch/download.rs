//! Gets libtorch out of the published wheels of Python's torch. pip fetches them, for any machine and whatever
//! Python runs it; a wheel is a zip archive.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::platform::Platform;
use super::{Parts, VERSION, folder, unpack};
use crate::python;

/// What the CPU libraries of a Linux wheel need beyond it: the CUDA run time and its profiler, both without a
/// use for a graphics card. The versions are those that torch's own wheel requires.
const BESIDE_TORCH: [(&str, &str); 2] = [("nvidia-cuda-runtime", "13.0.96"), ("nvidia-cuda-cupti", "13.0.85")];

/// Any Python version that the wheels exist for: libtorch does not depend on it.
const WHEELS_OF_PYTHON: &str = "3.11";

/// Makes `folder` a whole libtorch. Finished wheels of an interrupted call are used; they are deleted at the end.
pub(crate) fn fetch(cache: &Path, folder: &Path, platform: Platform, parts: Parts) -> Result<()> {
    let store = cache.join(format!("downloads-{VERSION}-{}", platform.name()));
    fs::create_dir_all(&store).with_context(|| format!("cannot make {}", store.display()))?;
    let wheels = Wheels { pip: pip()?, tags: platform.wheel_tags(), store };
    let torch = wheels.get("torch", VERSION)?;
    if !folder::is_finished(folder) || folder::check(folder).is_err() {
        add_cpu_parts(&wheels, &torch, folder)?;
    }
    if parts == Parts::WithCuda {
        add_cuda_parts(&wheels, &torch, folder)?;
    }
    fs::remove_dir_all(&wheels.store).with_context(|| format!("cannot delete {}", wheels.store.display()))
}

fn add_cpu_parts(wheels: &Wheels, torch: &Path, folder: &Path) -> Result<()> {
    let partial = folder::partial(folder);
    folder::start_over(&partial)?;
    unpack::cpu_parts(torch, &partial)?;
    let lib = partial.join("lib");
    let missing = folder::missing_libraries(&lib)?;
    if !missing.is_empty() {
        for (distribution, version) in BESIDE_TORCH {
            let wheel = wheels.get(distribution, version)?;
            unpack::libraries(&wheel, &lib, |name| missing.iter().any(|missing| missing == name))?;
        }
    }
    let missing = folder::missing_libraries(&lib)?;
    if !missing.is_empty() {
        bail!("{} needs {}, which no known wheel has", torch.display(), missing.join(", "));
    }
    folder::finish(&partial, folder)
}

/// Into a folder of their own, so that programs are linked without them and look for them when they start.
fn add_cuda_parts(wheels: &Wheels, torch: &Path, folder: &Path) -> Result<()> {
    let requirements = cuda_requirements(&unpack::metadata(torch)?);
    wheels.download(&requirements)?;
    let cuda = folder.join("cuda");
    let partial = folder::partial(&cuda);
    folder::start_over(&partial)?;
    unpack::cuda_parts(torch, &partial)?;
    for wheel in wheels.finished()?.iter().filter(|wheel| *wheel != torch) {
        unpack::libraries(wheel, &partial, |_| true)?;
    }
    folder::put_in_place(&partial, &cuda)
}

/// The requirements of torch's METADATA that bring CUDA libraries; pip follows theirs.
fn cuda_requirements(metadata: &str) -> Vec<String> {
    metadata
        .lines()
        .filter_map(|line| line.strip_prefix("Requires-Dist: "))
        .filter_map(|requirement| requirement.split(';').next())
        .map(|requirement| requirement.trim().to_owned())
        .filter(|requirement| requirement.starts_with("nvidia-") || requirement.starts_with("cuda-toolkit"))
        .collect()
}

/// Finished wheels in a folder, and the pip that adds to them.
struct Wheels {
    pip: Vec<OsString>,
    tags: Vec<String>,
    store: PathBuf,
}

impl Wheels {
    fn get(&self, distribution: &str, version: &str) -> Result<PathBuf> {
        if let Some(wheel) = self.find(distribution, version)? {
            return Ok(wheel);
        }
        self.download(&["--no-deps".to_owned(), format!("{distribution}=={version}")])?;
        self.find(distribution, version)?.with_context(|| format!("pip brought no wheel of {distribution} {version}"))
    }

    /// pip copies into a folder of its own first: what lies in the store is whole. Each call has another, for the
    /// pip of a killed one may still be at work.
    fn download(&self, requirements: &[String]) -> Result<()> {
        let incoming = self.store.join(format!("incoming-{}", std::process::id()));
        folder::start_over(&incoming)?;
        println!("getting {} with pip, into {}", requirements.join(" "), self.store.display());
        let status = Command::new(&self.pip[0])
            .args(&self.pip[1..])
            .args(["download", "--only-binary=:all:", "--python-version", WHEELS_OF_PYTHON])
            .args(self.tags.iter().flat_map(|tag| ["--platform", tag]))
            .arg("--dest")
            .arg(&incoming)
            .args(requirements)
            .status()
            .context("cannot start pip")?;
        if !status.success() {
            bail!("pip failed ({status})");
        }
        for entry in fs::read_dir(&incoming)? {
            let entry = entry?;
            File::options().append(true).open(entry.path())?.sync_all()?;
            fs::rename(entry.path(), self.store.join(entry.file_name()))?;
        }
        Ok(())
    }

    fn find(&self, distribution: &str, version: &str) -> Result<Option<PathBuf>> {
        Ok(self.finished()?.into_iter().find(|wheel| is_wheel_of(wheel, distribution, version)))
    }

    fn finished(&self) -> Result<Vec<PathBuf>> {
        let paths = fs::read_dir(&self.store)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "whl")).collect())
    }
}

fn is_wheel_of(wheel: &Path, distribution: &str, version: &str) -> bool {
    let prefix = format!("{}-{version}", distribution.replace('-', "_"));
    let rest = wheel.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(&prefix));
    rest.is_some_and(|rest| rest.ends_with(".whl") && rest.starts_with(['-', '+']))
}

fn pip() -> Result<Vec<OsString>> {
    let modules = python::interpreters().into_iter().map(|python| vec![python, "-m".into(), "pip".into()]);
    let programs = ["pip3", "pip"].map(|program| vec![program.into()]);
    let runs = |pip: &Vec<OsString>| {
        let mut command = Command::new(&pip[0]);
        command.args(&pip[1..]).arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    modules.chain(programs).find(runs).context("there is no pip: neither `python3 -m pip` nor `pip3` starts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuda_requirements_are_those_with_libraries() {
        let metadata = "Name: torch\nRequires-Dist: sympy>=1.13.3\n\
            Requires-Dist: cuda-toolkit[cublas,cudart]==13.0.2; platform_system == \"Linux\"\n\
            Requires-Dist: cuda-bindings<14,>=13.0.3; platform_system == \"Linux\"\n\
            Requires-Dist: nvidia-cudnn-cu13==9.19.0.56; platform_system == \"Linux\"\n\
            Requires-Dist: triton==3.6.0; platform_system == \"Linux\"\n";
        assert_eq!(
            cuda_requirements(metadata),
            ["cuda-toolkit[cublas,cudart]==13.0.2", "nvidia-cudnn-cu13==9.19.0.56"]
        );
    }

    #[test]
    fn wheels_are_known_by_name_and_version() {
        let is = |name: &str| is_wheel_of(Path::new(name), "nvidia-cuda-runtime", "13.0.96");
        assert!(is("store/nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.whl"));
        assert!(!is("nvidia_cuda_runtime-13.0.961-py3-none-any.whl"));
        assert!(!is("nvidia_cuda_runtime-13.0.96-py3-none-any.whl.part"));
        assert!(is_wheel_of(Path::new("torch-2.11.0+cpu-cp311-cp311-win_amd64.whl"), "torch", "2.11.0"));
    }
}
