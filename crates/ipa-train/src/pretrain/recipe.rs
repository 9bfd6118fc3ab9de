//! How long and with what each stage is trained.

use ipa_core::tch::Device;

use super::StageConfig;

/// The sizes of a rebuild of the pocket model.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// Seed of scenes, weights and noise.
    pub seed: u64,
    /// Side of the pictures in pixels.
    pub size: u32,
    /// Where the models are while they learn; scenes, captions and noise are drawn on the CPU, the same for all
    /// devices.
    pub device: Device,
    /// The autoencoder.
    pub vae: StageConfig,
    /// Both CLIP towers together: those of the model, and the second pair, for scores.
    pub clip: StageConfig,
    /// The UNet.
    pub unet: StageConfig,
    /// The base adapter.
    pub adapter: StageConfig,
    /// Scenes whose latents the UNet learns from.
    pub num_scenes: u64,
    /// Held-out scenes that are drawn and judged at the end.
    pub num_scored: u64,
}

impl Recipe {
    /// A full rebuild; docs/pocket.md says what it gave.
    pub fn full() -> Self {
        let stage = |batch, steps, learning_rate| StageConfig { batch, steps, learning_rate, warmup: 100, ema: 0.999 };
        Self {
            seed: 0,
            size: 64,
            device: Device::Cpu,
            vae: stage(16, 3500, 1e-3),
            clip: stage(128, 2600, 1e-3),
            unet: stage(256, 3600, 1.2e-3),
            adapter: stage(128, 1500, 1e-3),
            num_scenes: 40_000,
            num_scored: 500,
        }
    }

    /// Going on from a finished model whose optimizer states are gone: smaller batches, and fewer and gentler steps of
    /// autoencoder and UNet.
    pub fn continued() -> Self {
        let full = Self::full();
        let vae = StageConfig { steps: 1500, learning_rate: 4e-4, ..full.vae };
        let unet = StageConfig { batch: 32, steps: 1200, learning_rate: 4e-4, ..full.unet };
        let adapter = StageConfig { batch: 32, ..full.adapter };
        Self { vae, unet, adapter, ..full }
    }

    /// The same with another number of steps in every stage.
    pub fn with_steps(self, steps: u64) -> Self {
        let stage = |stage: StageConfig| StageConfig { steps, ..stage };
        Self {
            vae: stage(self.vae),
            clip: stage(self.clip),
            unet: stage(self.unet),
            adapter: stage(self.adapter),
            ..self
        }
    }

    /// A few steps of everything, to see that the command works.
    pub fn short() -> Self {
        let full = Self::full();
        let stage = |stage: StageConfig| StageConfig { batch: 8, steps: 30, warmup: 2, ..stage };
        Self {
            vae: stage(full.vae),
            clip: stage(full.clip),
            unet: stage(full.unet),
            adapter: stage(full.adapter),
            num_scenes: 64,
            num_scored: 2,
            ..full
        }
    }
}
