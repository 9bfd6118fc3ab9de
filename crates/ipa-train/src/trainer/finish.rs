//! What a run leaves beside its checkpoints.

use std::collections::HashMap;
use std::path::Path;

use ipa_core::tch::{self, Kind, Tensor};
use ipa_formats::{FormatError, write_atomically};

use super::{TrainError, Trainer};
use crate::whole_unet::WholeUnet;

/// The finished adapter.
pub const ADAPTER_FILE: &str = "ip_adapter.safetensors";
/// The settings of a run, all of them, to be given to `--config` again.
pub const CONFIG_FILE: &str = "config.toml";
const MIB: u64 = 1 << 20;

impl Trainer<'_> {
    /// Bytes of a checkpoint: the adapter and two moments, perhaps an average; all f32.
    pub fn checkpoint_bytes(&self) -> u64 {
        let parts = if self.ema.is_some() { 4 } else { 3 };
        parts * 4 * self.optimizer.parameters().numel() as u64
    }

    /// Bytes of all that a run leaves when it is done, the finished adapter included.
    pub fn output_bytes(&self) -> u64 {
        let saves = self.num_steps() / self.config.output.save_steps;
        let kept = saves.min(self.config.output.keep_checkpoints as u64 + 1); // one more while it is saved
        let adapters = if self.judge.is_some() { 2 } else { 1 }; // the best one too
        kept * self.checkpoint_bytes() + adapters * 4 * self.optimizer.parameters().numel() as u64
    }

    /// Refuses a disk on which not even the next checkpoint has room beside the one before.
    pub(super) fn check_room(&self, folder: &Path) -> Result<(), TrainError> {
        let failed = |source| FormatError::Read { path: folder.into(), source };
        let (free, needed) = (fs4::available_space(folder).map_err(failed)?, 2 * self.checkpoint_bytes());
        match free < needed {
            true => Err(TrainError::DiskFull {
                folder: folder.into(),
                free_mib: free / MIB,
                needed_mib: needed.div_ceil(MIB),
            }),
            false => Ok(()),
        }
    }

    /// All settings, those that were left open included.
    pub(super) fn write_config(&self, folder: &Path) -> Result<(), TrainError> {
        let text = self.config.to_toml();
        Ok(write_atomically(&folder.join(CONFIG_FILE), |file| file.write_all(text.as_bytes()))?)
    }

    /// The finished adapter, and the report.
    pub(super) fn finish(&mut self, folder: &Path) -> Result<(), TrainError> {
        if let Some(ema) = &self.ema {
            replace(&self.trained(), &ema.tensors(&self.optimizer));
        }
        if let Some(unet) = &self.whole_unet {
            unet.export(folder)?;
        }
        self.adapter.save(&folder.join(ADAPTER_FILE), Kind::Float, Some(&self.metadata()))?;
        match self.config.output.report {
            true => self.report(folder),
            false => Ok(()),
        }
    }

    /// Runs `work` while the adapter is the average of its steps, if there is one.
    pub(super) fn with_average<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let average = self.ema.as_ref().map(|ema| ema.tensors(&self.optimizer)).unwrap_or_default();
        let variables = self.trained();
        let own: Vec<_> = average.iter().map(|(name, _)| (name.clone(), variables[name].detach().copy())).collect();
        replace(&variables, &average);
        let result = work(self);
        replace(&variables, &own);
        result
    }

    /// All that learns, by its name in the optimizer.
    fn trained(&self) -> HashMap<String, Tensor> {
        let of_unet = self.whole_unet.iter().flat_map(WholeUnet::variables);
        self.adapter.variables().into_iter().chain(of_unet).collect()
    }

    /// The adapter, the average of its steps if there is one.
    pub(super) fn write_adapter(&mut self, path: &Path) -> Result<(), TrainError> {
        Ok(self.with_average(|this| this.adapter.save(path, Kind::Float, Some(&this.metadata())))?)
    }
}

/// In place: the optimizer's buffer is behind the variables.
fn replace(variables: &HashMap<String, Tensor>, values: &[(String, Tensor)]) {
    let _no_grad = tch::no_grad_guard();
    values.iter().for_each(|(name, value)| variables[name].shallow_clone().copy_(value));
}
