//! The other side: what tests/parity/reference.py makes.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipa_core::Checkpoint;
use ipa_core::tch::Tensor;
use tempfile::TempDir;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/reference.py");

/// Inputs, outputs and weights of one part; the files go when this goes.
#[derive(Debug)]
pub(crate) struct Reference {
    tensors: Checkpoint, // closed before its folder is removed
    folder: TempDir,
}

impl Reference {
    /// Has Python make a part in `folder`; it is gone from memory when this returns.
    ///
    /// # Errors
    /// If Python cannot be started, or says why it failed.
    pub(crate) fn make(part: &str, folder: TempDir, paths: &[&Path]) -> Result<Self> {
        Self::call(part, folder.path(), paths)?;
        Ok(Self { tensors: Checkpoint::open(&folder.path().join("reference.safetensors"))?, folder })
    }

    /// Has Python make another part in the same folder, of what is there.
    ///
    /// # Errors
    /// As [`Reference::make`].
    pub(crate) fn remake(self, part: &str) -> Result<Self> {
        let Self { tensors, folder } = self;
        drop(tensors);
        Self::make(part, folder, &[])
    }

    fn call(part: &str, folder: &Path, paths: &[&Path]) -> Result<()> {
        let python = env::var_os("IPA_PYTHON").unwrap_or_else(|| "python3".into());
        let output = Command::new(&python)
            .args(["-B", SCRIPT, part]) // -B: no compiled files in the checkout
            .arg(folder)
            .args(paths)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}: name the reference Python in IPA_PYTHON", python.display()))?;
        if !output.status.success() {
            bail!("the reference failed at `{part}`:\n{}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(())
    }

    /// A file or folder that it made.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder with the model's weights.
    pub(crate) fn model(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    /// The file with the adapter's.
    pub(crate) fn adapter(&self) -> PathBuf {
        self.folder.path().join("ip_adapter.safetensors")
    }

    /// An input.
    ///
    /// # Errors
    /// If there is none of that name.
    pub(crate) fn input(&self, name: &str) -> Result<Tensor> {
        Ok(self.tensors.tensor(name)?)
    }

    /// An output.
    ///
    /// # Errors
    /// If there is none of that name.
    pub(crate) fn output(&self, name: &str) -> Result<Tensor> {
        self.input(&format!("output.{name}"))
    }

    /// An output of one number.
    ///
    /// # Errors
    /// If there is none of that name.
    pub(crate) fn number(&self, name: &str) -> Result<f64> {
        Ok(self.output(name)?.double_value(&[]))
    }

    /// How long its forward call took.
    ///
    /// # Errors
    /// If the file does not say.
    pub(crate) fn forward_time(&self) -> Result<Duration> {
        let seconds = self.tensors.metadata().get("forward_s").and_then(|seconds| seconds.parse().ok());
        Ok(Duration::from_secs_f64(seconds.context("the reference did not say how long it took")?))
    }
}
