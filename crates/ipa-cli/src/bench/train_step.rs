//! `ipa bench train-step`

use anyhow::{Result, ensure};
use clap::{Args, value_parser};
use ipa_adapter::IpAdapter;
use ipa_core::Work;
use ipa_core::noise::Draws;
use ipa_core::tch::{Device, Kind, Reduction, Tensor};
use ipa_sample::{NoiseSchedule, SchedulerConfig};
use ipa_train::{AdamW, AdamWConfig, Batch, backward_by_segments, training_loss};
use ipa_unet::{Operation, OperationKind};
use serde_json::json;

use super::measure::timed;
use super::memory::Before;
use super::models::{RandomUnet, TEXT_TOKENS, Variant, call_size, work_of};
use super::preset::{Preset, Side};
use super::report::{Measured, tell};
use super::{CommonArgs, ConfigArgs, SizeArgs};

const LEARNING_RATE: f64 = 1e-4;
const SCALING_FACTOR: f64 = 0.18215;

/// One step of training an adapter, from cached latents, captions and features
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  ipa bench train-step --config sd15 --batch 1 --size 512 --variant plus --recompute"
)]
pub(super) struct TrainStepArgs {
    #[command(flatten)]
    model: ConfigArgs,
    #[command(flatten)]
    size: SizeArgs,
    #[command(flatten)]
    common: CommonArgs,
    /// Pictures at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(i64).range(1..=256))]
    batch: i64,
    /// Kind of adapter
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Variant::Classic)]
    variant: Variant,
    /// Compute again on the way back what would take the most memory to keep
    #[arg(long)]
    recompute: bool,
}

pub(super) fn run(args: &TrainStepArgs) -> Result<()> {
    let TrainStepArgs { model, size, common, batch, variant, recompute } = args;
    let (preset, side) = (model.config, model.config.side(size.size)?);
    let options = common.device.options()?;
    let unet = RandomUnet::new(preset, options)?;
    let adapter = unet.adapter(*variant, preset, (options.0, Kind::Float));
    let before = Before::now(options.0);
    let mut step = Step {
        optimizer: AdamW::new(adapter.variables(), AdamWConfig::default()),
        schedule: NoiseSchedule::new(&SchedulerConfig::sd15_ddim()),
        cached: Cached::new(preset, *variant, &unet, (*batch, side)),
        recompute: *recompute,
        options,
        unet,
        adapter,
    };
    let timing = timed(options.0, common.runs, ("training step", common.json), || step.run())?;
    let mut work = backward(&step.unet.config.operations(call_size(*batch, side, variant.num_tokens())));
    work.linear += adapter_work(&step.adapter, *variant, preset) * *batch as f64;
    let (how, pixels) = (if *recompute { ", with recomputation" } else { "" }, side.pixels);
    let measured = Measured {
        bench: "train-step",
        title: format!("training step of a {variant:?} adapter for {}, batch {batch}, {pixels} px{how}", preset.name()),
        call: json!({
            "config": preset, "batch": batch, "size": pixels, "variant": variant, "recompute": recompute
        }),
        found: Vec::new(),
        timing,
        work: Some(work),
        memory: before.until_now(),
    };
    drop(step);
    tell(vec![measured], options, common.json)
}

/// What a run keeps of its rows; on the CPU, f32.
struct Cached {
    mean: Tensor,
    std: Tensor,
    text_embeds: Tensor,
    image_features: Tensor,
}

impl Cached {
    fn new(preset: Preset, variant: Variant, unet: &RandomUnet, (batch, side): (i64, Side)) -> Self {
        let mut draws = Draws::seeded(1);
        let latents = [batch, unet.config.in_channels, side.latents, side.latents];
        Self {
            mean: draws.normal(&latents) / SCALING_FACTOR,
            std: draws.uniform(&latents) * 0.1,
            text_embeds: draws.normal(&[batch, TEXT_TOKENS, unet.config.cross_attention_dim]),
            image_features: draws.normal(&variant.features(preset, batch)),
        }
    }
}

/// A run in miniature.
struct Step {
    unet: RandomUnet,
    adapter: IpAdapter,
    optimizer: AdamW,
    schedule: NoiseSchedule,
    cached: Cached,
    recompute: bool,
    options: (Device, Kind),
}

impl Step {
    fn run(&mut self) -> Result<()> {
        let batch = self.batch();
        let (device, kind) = self.options;
        let noise = batch.noise.to_device(device).to_kind(kind).to_kind(Kind::Float);
        let (unet, adapter, schedule) = (&self.unet.model, &self.adapter, &self.schedule);
        let loss = match self.recompute {
            true => {
                let loss_of = |prediction: &Tensor| prediction.mse_loss(&noise, Reduction::Mean);
                backward_by_segments(unet, adapter, schedule, &batch, loss_of)?
            }
            false => {
                let loss = training_loss(unet, adapter, schedule, &batch)?;
                loss.backward();
                loss.double_value(&[])
            }
        };
        ensure!(loss.is_finite(), "the loss is {loss} in this precision: try another `--dtype`");
        self.optimizer.step(LEARNING_RATE);
        Ok(())
    }

    /// Drawn anew for every step, as a run does.
    fn batch(&self) -> Batch {
        let (device, kind) = self.options;
        let Cached { mean, std, text_embeds, image_features } = &self.cached;
        let draws = |purpose| Draws::counted(0, purpose, self.optimizer.steps());
        let shape = mean.size();
        // Statements of their own: within one, the first would keep the generator from the next for ever.
        let latents = (mean + std * draws("posterior").normal(&shape)) * SCALING_FACTOR;
        let noise = draws("noise").normal(&shape);
        let timesteps = draws("timesteps").integers(self.schedule.len(), &shape[..1]);
        Batch {
            latents,
            noise,
            perturbation: None,
            timesteps,
            text_embeds: text_embeds.to_device(device).to_kind(kind),
            image_features: Some(image_features.to_device(device)),
            face: None,
            weights: None,
            mask: None,
        }
    }
}

/// Forward, and back as far as gradients go: through what comes after the first cross-attention, to features alone.
fn backward(operations: &[Operation]) -> Work {
    let first_site = operations.iter().position(|operation| operation.kind == OperationKind::ImageAttention);
    let times = |index: usize, kind: OperationKind| match (Some(index).cmp(&first_site), kind) {
        (std::cmp::Ordering::Less, _) | (_, OperationKind::TextLinear) => 1.0,
        // Shares and queries, but no keys and values.
        (_, OperationKind::Convolution | OperationKind::Linear | OperationKind::TextAttention) => 2.0,
        // Shares, queries, keys and values.
        (_, OperationKind::SelfAttention | OperationKind::ImageAttention) => 3.0,
    };
    let both_ways = |(index, operation): (usize, &Operation)| work_of(operation) * times(index, operation.kind);
    operations.iter().enumerate().map(both_ways).sum()
}

/// The adapter's own matrices, for one picture: forward, gradients of what they read, gradients of themselves.
fn adapter_work(adapter: &IpAdapter, variant: Variant, preset: Preset) -> f64 {
    let (tokens, features) = (variant.num_tokens(), variant.features(preset, 1));
    let patches = if features.len() == 3 { features[1] } else { 1 };
    let rows = |name: &str| match name {
        _ if name.contains("to_kv") => patches + tokens,
        "image_proj.proj.weight" | "image_proj.proj_in.weight" => patches,
        _ => tokens,
    };
    let variables = adapter.variables();
    let matrices = variables.iter().filter(|(_, variable)| variable.dim() == 2);
    matrices.map(|(name, matrix)| 6.0 * matrix.numel() as f64 * rows(name) as f64).sum()
}

#[cfg(test)]
mod tests {
    use ipa_unet::UnetConfig;

    use super::*;

    /// Two times the forward call and a little, less what comes before the first site and what has no gradient.
    #[test]
    fn a_step_is_twice_a_call() {
        let side = Preset::Sd15.side(Some(512)).expect("a multiple of 8");
        let operations = UnetConfig::sd15().operations(call_size(1, side, 4));
        let forward: Work = operations.iter().map(work_of).sum();
        let step = backward(&operations);
        let ratio = |step: f64, forward: f64| step / forward;
        assert!((1.9..2.0).contains(&ratio(step.convolutions, forward.convolutions)), "{step:?} of {forward:?}");
        assert!((1.9..2.0).contains(&ratio(step.linear, forward.linear)), "{step:?} of {forward:?}");
        assert!((2.5..3.0).contains(&ratio(step.attention, forward.attention)), "{step:?} of {forward:?}");
    }
}
