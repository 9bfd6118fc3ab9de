//! `ipa bench generate`

use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::{Args, value_parser};
use ipa_core::Work;
use ipa_core::tch::Device;
use ipa_sample::{Fast, GenerateRequest, Pictures, Pipeline, UnetCall};
use serde_json::json;

use super::measure::{Timing, finish, timed};
use super::memory::{Before, Memory};
use super::model_folder::{write_image_prompts, write_model};
use super::models::{Variant, call_size, work_of};
use super::preset::{Preset, Side};
use super::report::{Measured, seconds, tell};
use super::{CommonArgs, ConfigArgs, SizeArgs};
use crate::args::fast;
use crate::failure::UsageError;
use crate::interrupt;

/// Whole pictures: prompt, steps with guidance, decoding; references come as embeddings, as `ipa embed` writes them
///
/// The model and its adapters are written to a temporary folder (2.2 GB for Stable Diffusion 1.5) and loaded as any other. The
/// call that warms up makes one step.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ipa bench generate --runs 1\n  \
    ipa bench generate --fast --runs 1\n  \
    ipa bench generate --steps 30 --references 4 --adapters 2 --json\n  \
    ipa bench generate --device cuda --dtype bf16 --num-images 4")]
pub(super) struct GenerateArgs {
    #[command(flatten)]
    model: ConfigArgs,
    #[command(flatten)]
    size: SizeArgs,
    /// Denoising steps, with the sampler ddim: as many calls of the UNet; 30, or the preset's with `--fast`
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1000))]
    steps: Option<u32>,
    /// With a preset of `ipa generate`: mild, default or most
    #[arg(long, value_name = "PRESET", num_args = 0..=1, default_missing_value = Fast::Default.name(), value_parser = fast)]
    fast: Option<Fast>,
    /// Pictures in one batch
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=64))]
    num_images: u32,
    /// Adapters of four tokens a reference, with 0 none
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(i64).range(0..=4))]
    adapters: i64,
    /// Reference images that each adapter sees
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(i64).range(1..=8))]
    references: i64,
    /// 1 is no guidance, half the work
    #[arg(long, value_name = "F", default_value_t = 7.5)]
    guidance_scale: f64,
    /// On a CUDA card, launch every kernel of every step instead of replaying recorded ones
    #[arg(long)]
    no_cuda_graphs: bool,
    #[command(flatten)]
    common: CommonArgs,
}

pub(super) fn run(args: &GenerateArgs) -> Result<()> {
    interrupt::listen()?;
    let (preset, common) = (args.model.config, &args.common);
    if preset == Preset::Sdxl {
        return Err(UsageError("pictures of sdxl are not drawn yet; choose another `--config`".to_owned()).into());
    }
    let side = preset.side(args.size.size)?;
    let options = common.device.options()?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    write_model(folder.path(), preset)?;
    let mut request = args.request(side);
    request.image_prompts = write_image_prompts(folder.path(), preset, args.adapters, args.references)?;
    request.check()?;
    let pipeline = Pipeline::load(folder.path(), options)?.with_cuda_graphs(!args.no_cuda_graphs);
    let pipeline =
        request.adapters().try_fold(pipeline, |pipeline, adapter| pipeline.with_source_for_embeds(adapter))?;
    let before = Before::now(options.0);
    let (asked, mut steps_s, mut calls) = (request.num_steps, Vec::new(), Vec::new());
    request.num_steps = 1; // at first: that warms up all there is
    let call = || {
        let (step_s, made) = drawn(&pipeline, &request, options.0)?;
        request.num_steps = asked;
        steps_s.push(step_s);
        calls = made;
        Ok(())
    };
    let timing = timed(options.0, common.runs, ("pictures", common.json), call)?;
    let drawn = Drawn { num_steps: asked, timing, steps_s: steps_s.split_off(1), calls, memory: before.until_now() };
    tell(vec![args.measured(side, drawn)?], options, common.json)
}

/// What was found of pictures.
struct Drawn {
    num_steps: usize,
    timing: Timing,
    steps_s: Vec<Option<f64>>,
    /// Of one picture, or batch.
    calls: Vec<UnetCall>,
    memory: Option<Memory>,
}

/// Draws; seconds of a step but for the first, if there are several, and the calls that were made.
fn drawn(pipeline: &Pipeline, request: &GenerateRequest, device: Device) -> Result<(Option<f64>, Vec<UnetCall>)> {
    let mut first = None;
    let mut step_s = None;
    let progress = |step| {
        // A card is waited for at both ends only, as it is in drawing.
        if step == 1 {
            finish(device);
            first = Some(Instant::now());
        } else if step == request.num_steps {
            finish(device);
            step_s = first.map(|first| first.elapsed().as_secs_f64() / (step - 1) as f64);
        }
        interrupt::flow()
    };
    let drawn = pipeline.generate(request, Pictures::default(), progress);
    let drawn = drawn.map_err(|error| interrupt::told(error, "nothing was measured"))?;
    Ok((step_s, drawn.calls))
}

impl GenerateArgs {
    fn request(&self, side: Side) -> GenerateRequest {
        let pixels = u32::try_from(side.pixels).ok();
        let mut request = GenerateRequest {
            prompt: "a cat in a garden, photograph".to_owned(),
            negative_prompt: "blurred".to_owned(),
            scheduler: Some("ddim".to_owned()),
            num_steps: self.steps.unwrap_or(30) as usize,
            guidance_scale: self.guidance_scale,
            num_images: self.num_images,
            width: pixels,
            height: pixels,
            ..GenerateRequest::default()
        };
        if let Some(fast) = self.fast {
            fast.fill(&mut request, |field| field == "num_steps" && self.steps.is_some());
        }
        request
    }

    fn image_tokens(&self) -> i64 {
        self.adapters * self.references * Variant::Classic.num_tokens()
    }

    /// Text tower, calls of the UNet, and decoder.
    fn work(&self, side: Side, calls: &[UnetCall]) -> Result<Work> {
        let (preset, num_images) = (self.model.config, i64::from(self.num_images));
        let prompts = if self.guidance_scale > 1.0 { 2 } else { 1 };
        let text = preset.text()?;
        let unet = preset.unet()?;
        let mut call = call_size(num_images, side, self.image_tokens());
        call.text_tokens = text.max_position_embeddings;
        Ok(text.work(call.text_tokens) * prompts as f64
            + calls.iter().flat_map(|made| made.operations(&unet, call)).map(|operation| work_of(&operation)).sum()
            + preset.vae()?.decode_work((side.latents, side.latents)) * num_images as f64)
    }

    fn measured(&self, side: Side, drawn: Drawn) -> Result<Measured> {
        let Self { model, fast, num_images, adapters, references, guidance_scale, .. } = self;
        let Drawn { num_steps, timing, steps_s, calls, memory } = drawn;
        let how = fast.map(|fast| format!(", fast ({fast})")).unwrap_or_default();
        let (image_tokens, references) = (self.image_tokens(), if *adapters == 0 { 0 } else { *references });
        let picture_s = timing.median_s / f64::from(*num_images);
        let steps_s: Option<Vec<f64>> = steps_s.into_iter().collect();
        let step_s = steps_s.map(|steps_s| Timing::of(steps_s).median_s);
        let mut found = vec![("a picture", seconds(picture_s))];
        found.extend(step_s.map(|step_s| ("a step", seconds(step_s))));
        Ok(Measured {
            bench: "generate",
            title: format!(
                "pictures of {}, batch {num_images}, {} px, {num_steps} steps{how}, {image_tokens} image tokens",
                model.config.name(),
                side.pixels
            ),
            call: json!({
                "config": model.config, "size": side.pixels, "steps": num_steps, "fast": fast, "num_images": num_images,
                "adapters": adapters, "references": references, "image_tokens": image_tokens, "guidance_scale": guidance_scale,
                "picture_s": picture_s, "step_s": step_s
            }),
            found,
            timing,
            work: Some(self.work(side, &calls)?),
            memory,
        })
    }
}
