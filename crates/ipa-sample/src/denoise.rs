//! One call of the model: what it reads, with or without guidance, for all pictures or some at a time.

use std::collections::BTreeMap;

use ipa_adapter::ImagePrompt;
use ipa_core::tch::Tensor;
use ipa_unet::{CrossAttentionHook, NoHook, Unet};

use crate::guidance::Guidance;
use crate::{GenerateRequest, PipelineError};

/// What the UNet reads beside the latents, for so many pictures or, under guidance, twice as many.
pub(crate) struct Conditions {
    pub(crate) context: Tensor,
    pub(crate) prompt: Option<ImagePrompt>,
}

impl Conditions {
    fn predict(&self, unet: &Unet, latents: &Tensor, timestep: &Tensor) -> Tensor {
        let hook: &dyn CrossAttentionHook = self.prompt.as_ref().map_or(&NoHook, |prompt| prompt);
        unet.forward(latents, timestep, &self.context, hook)
    }
}

/// Conditions of both ways to call the model; those that no step needs are absent.
struct Both {
    guided: Option<Conditions>,
    plain: Option<Conditions>,
}

/// The model with all that stays the same from step to step.
pub(crate) struct Denoiser<'a> {
    unet: &'a Unet,
    guidance: Option<Guidance>,
    num_images: i64,
    batch: i64,
    /// By number of pictures in a call: whole batches and the rest.
    conditions: BTreeMap<i64, Both>,
}

impl<'a> Denoiser<'a> {
    /// `conditions` makes them for a number of pictures, with or without guidance.
    pub(crate) fn new(
        unet: &'a Unet,
        request: &GenerateRequest,
        conditions: impl Fn(i64, bool) -> Result<Conditions, PipelineError>,
    ) -> Result<Self, PipelineError> {
        let guidance = Guidance::of(request);
        let num_images = i64::from(request.num_images);
        let batch = request.batch_size.map_or(num_images, |batch| num_images.min(i64::from(batch)));
        let both = |num: i64| {
            let guided = guidance.is_some().then(|| conditions(num, true)).transpose()?;
            let is_plain_needed = guidance.as_ref().is_none_or(|guidance| !guidance.is_always_on());
            let plain = is_plain_needed.then(|| conditions(num, false)).transpose()?;
            Ok::<_, PipelineError>((num, Both { guided, plain }))
        };
        let sizes = [batch, num_images % batch].into_iter().filter(|&size| size > 0);
        let conditions = sizes.map(both).collect::<Result<_, _>>()?;
        Ok(Self { unet, guidance, num_images, batch, conditions })
    }

    /// What the model says of the samples when `done` of the calls, in `[0, 1)`, are behind.
    pub(crate) fn predict(&self, done: f64, samples: &Tensor, timestep: &Tensor) -> Tensor {
        let predict = |first: i64| {
            let num = self.batch.min(self.num_images - first);
            self.predict_part(done, &samples.narrow(0, first, num), timestep, &self.conditions[&num])
        };
        let parts: Vec<Tensor> = (0..self.num_images).step_by(self.batch as usize).map(predict).collect();
        Tensor::cat(&parts, 0)
    }

    fn predict_part(&self, done: f64, samples: &Tensor, timestep: &Tensor, conditions: &Both) -> Tensor {
        let guided = self.guidance.as_ref().filter(|guidance| guidance.is_on(done)).zip(conditions.guided.as_ref());
        match (guided, &conditions.plain) {
            (Some((guidance, conditions)), _) => {
                let doubled = Tensor::cat(&[samples, samples], 0); // [uncond; cond]
                guidance.apply(&conditions.predict(self.unet, &doubled, timestep))
            }
            (None, Some(plain)) => plain.predict(self.unet, samples, timestep),
            (None, None) => unreachable!("plain conditions are there unless guidance is always on"),
        }
    }
}
