//! Rebuilds tests/fixtures from the Python references.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::cargo::{checkout, exit_code};
use crate::python;

/// The versions that the fixtures in the repository were made with.
const REFERENCES: [(&str, &str); 3] = [("torch", "2.11.0"), ("diffusers", "0.42.1"), ("transformers", "5.23.0")];

/// Runs every fixture script; stops at the first that fails.
pub(crate) fn run(args: &[OsString]) -> Result<ExitCode> {
    if !args.is_empty() {
        eprintln!("error: `cargo xtask fixtures` takes no arguments");
        return Ok(ExitCode::from(2));
    }
    let python = reference_python()?;
    for script in scripts(&checkout().join("tests/fixtures"))? {
        println!("{}", script.display());
        let status = Command::new(&python).arg(&script).status().context("cannot start Python")?;
        if !status.success() {
            eprintln!("error: {} failed; the fixtures after it were left as they are", script.display());
            return Ok(exit_code(status));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The Python that has the references, by the versions this repository's fixtures are of.
///
/// # Errors
/// If it lacks one or has another version, with how to make one.
pub(crate) fn reference_python() -> Result<OsString> {
    let python = python::interpreters().swap_remove(0);
    let version = |name| python::installed_version(&python, name);
    let mut complaints: Vec<String> = REFERENCES
        .iter()
        .filter_map(|(name, wanted)| match version(name) {
            Some(found) if found == *wanted => None,
            Some(found) => Some(format!("{name} is {found}")),
            None => Some(format!("{name} is missing")),
        })
        .collect();
    // With torchvision, transformers chooses another resize: other preprocessing numbers.
    complaints.extend(version("torchvision").map(|_| "torchvision is installed".to_owned()));
    if !complaints.is_empty() {
        let install: Vec<_> = REFERENCES.iter().map(|(name, version)| format!("{name}=={version}")).collect();
        bail!(
            "{} is not the reference Python ({}): make one with `python3 -m venv references && \
             references/bin/pip install {} accelerate peft pillow scipy scikit-image`, without torchvision, and set \
             IPA_PYTHON=references/bin/python",
            python.display(),
            complaints.join(", "),
            install.join(" ")
        );
    }
    Ok(python)
}

/// `tests/fixtures/*.py` and `tests/fixtures/*/make.py` that are programs (not modules the others share), the
/// one that writes the model which the others read before them.
fn scripts(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        let script = if path.is_dir() { path.join("make.py") } else { path };
        let is_program = |script: &Path| fs::read_to_string(script).is_ok_and(|text| text.contains("__main__"));
        if script.extension().is_some_and(|extension| extension == "py") && is_program(&script) {
            found.push(script);
        }
    }
    let is_tiny = |script: &Path| script.file_name().is_some_and(|name| name.to_string_lossy().starts_with("tiny_"));
    found.sort_by_key(|script| (!script.ends_with("tiny_sd.py"), !is_tiny(script), script.clone()));
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn programs_run_in_order_and_shared_modules_do_not() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("dialects")).unwrap();
        for name in ["models.py", "tiny_sd.py", "tiny_models.py", "dialects/make.py"] {
            fs::write(folder.path().join(name), "if __name__ == \"__main__\":\n    main()\n").unwrap();
        }
        fs::write(folder.path().join("common.py"), "def shared(): pass\n").unwrap();
        let scripts = scripts(folder.path()).unwrap();
        let names: Vec<_> = scripts.iter().map(|script| script.strip_prefix(folder.path()).unwrap()).collect();
        assert_eq!(names, ["tiny_sd.py", "tiny_models.py", "dialects/make.py", "models.py"].map(Path::new));
    }
}
