//! Training of all of the UNet's weights beside an adapter: what adapters are compared with.

use std::collections::HashMap;
use std::path::Path;

use ipa_core::tch::{self, Kind, Tensor, nn::VarStore};
use ipa_core::{Checkpoint, Component, WeightsError, save_variables};
use ipa_unet::{Unet, UnetConfig};

/// Before the names of the UNet's variables where they stand among the adapter's.
const PREFIX: &str = "unet.";

/// A copy of a frozen UNet that learns; the frozen one stays as it is.
#[derive(Debug)]
pub(crate) struct WholeUnet {
    pub(crate) model: Unet,
    config: UnetConfig,
    vs: VarStore,
}

impl WholeUnet {
    /// Begins as `base`, in f32.
    pub(crate) fn new(base: &Component<UnetConfig, Unet>) -> Self {
        let vs = VarStore::new(base.vs.device());
        let model = Unet::new(&vs.root(), &base.config);
        let own = base.vs.variables();
        for (name, mut variable) in vs.variables() {
            variable.set_data(&own[&name].detach().copy().to_kind(Kind::Float));
        }
        Self { model, config: base.config.clone(), vs }
    }

    /// Its variables, for the optimizer: `unet.conv_in.weight` and so on.
    pub(crate) fn variables(&self) -> HashMap<String, Tensor> {
        self.vs.variables().into_iter().map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor)).collect()
    }

    /// Writes all weights as they are, for [`WholeUnet::load`].
    pub(crate) fn save(&self, file: &Path) -> Result<(), WeightsError> {
        save_variables(file, &self.vs, Kind::Float, None)
    }

    /// Takes them back, in place: the optimizer's buffer is behind them.
    pub(crate) fn load(&self, file: &Path) -> Result<(), WeightsError> {
        let (weights, variables) = (Checkpoint::open(file)?, self.vs.variables().into_iter().collect());
        weights.check(&variables)?;
        let _no_grad = tch::no_grad_guard();
        variables.into_iter().try_for_each(|(name, mut variable)| {
            variable.copy_(&weights.tensor(&name)?);
            Ok(())
        })
    }

    /// Writes `unet/` into a folder, as published models have it.
    pub(crate) fn export(&self, folder: &Path) -> Result<(), WeightsError> {
        crate::pretrain::export::unet(folder, &self.vs, &self.config)
    }
}
