//! One call of the model: what it reads, with or without guidance, for all pictures or some at a time.

use std::collections::BTreeMap;
use std::fmt;

use ipa_adapter::{AttentionMaps, Composition, WatchedCall};
use ipa_core::FewerProducts;
use ipa_core::tch::Tensor;
use ipa_unet::{CrossAttentionHook, SiteId, Unet};

use crate::guidance::Guidance;
use crate::{GenerateRequest, PipelineError};

/// What the UNet reads beside the latents, for so many pictures or, under guidance, twice as many.
pub(crate) struct Conditions {
    pub(crate) context: Tensor,
    pub(crate) prompts: Composition,
}

/// What goes with a generation beside its request.
#[derive(Clone, Copy, Default)]
pub struct Extras<'a> {
    /// A hook of the caller's own, which adds to what the image prompts add.
    pub hook: Option<&'a dyn CrossAttentionHook>,
    /// Gathers where the references act.
    pub maps: Option<&'a AttentionMaps>,
}

impl fmt::Debug for Extras<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Extras").field("hook", &self.hook.is_some()).field("maps", &self.maps).finish()
    }
}

/// The pictures of one call of the model.
#[derive(Clone, Copy)]
struct Part {
    first: i64,
    num: i64,
    /// Share of the calls that are behind.
    done: f64,
}

impl Conditions {
    fn predict(&self, unet: &Unet, extras: Extras, part: Part, latents: &Tensor, timestep: &Tensor) -> Tensor {
        let prompt = self.prompts.at(part.done);
        let context = prompt.context(&self.context);
        let size = latents.size();
        let call = WatchedCall { first: part.first, num: part.num, height: size[2], width: size[3] };
        let watched = extras.maps.map(|maps| maps.watching(&prompt, call));
        let own: &dyn CrossAttentionHook = watched.as_ref().map_or(&prompt as _, |watched| watched);
        match extras.hook {
            Some(added) => unet.forward(latents, timestep, &context, &Both { own, added }),
            None => unet.forward(latents, timestep, &context, own),
        }
    }
}

/// Two hooks, added.
struct Both<'a> {
    own: &'a dyn CrossAttentionHook,
    added: &'a dyn CrossAttentionHook,
}

impl CrossAttentionHook for Both<'_> {
    fn attend(&self, site: SiteId, query: &Tensor) -> Option<Tensor> {
        match (self.own.attend(site, query), self.added.attend(site, query)) {
            (Some(own), Some(added)) => Some(own + added),
            (own, added) => own.or(added),
        }
    }
}

/// Conditions of both ways to call the model; those that no step needs are absent.
struct Ways {
    guided: Option<Conditions>,
    plain: Option<Conditions>,
}

/// The model with all that stays the same from step to step.
pub(crate) struct Denoiser<'a> {
    unet: &'a Unet,
    extras: Extras<'a>,
    guidance: Option<Guidance>,
    num_images: i64,
    batch: i64,
    /// By number of pictures in a call: whole batches and the rest.
    conditions: BTreeMap<i64, Ways>,
}

impl<'a> Denoiser<'a> {
    /// `conditions` makes them for a number of pictures, with or without guidance.
    pub(crate) fn new(
        unet: &'a Unet,
        extras: Extras<'a>,
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
            Ok::<_, PipelineError>((num, Ways { guided, plain }))
        };
        let sizes = [batch, num_images % batch].into_iter().filter(|&size| size > 0);
        let conditions = sizes.map(both).collect::<Result<_, _>>()?;
        Ok(Self { unet, extras, guidance, num_images, batch, conditions })
    }

    /// What the model says of the samples when `done` of the calls, in `[0, 1)`, are behind.
    pub(crate) fn predict(&self, done: f64, samples: &Tensor, timestep: &Tensor) -> Tensor {
        let _fewer = FewerProducts::new();
        let predict = |first: i64| {
            let part = Part { first, num: self.batch.min(self.num_images - first), done };
            self.predict_part(part, &samples.narrow(0, first, part.num), timestep, &self.conditions[&part.num])
        };
        let parts: Vec<Tensor> = (0..self.num_images).step_by(self.batch as usize).map(predict).collect();
        Tensor::cat(&parts, 0)
    }

    fn predict_part(&self, part: Part, samples: &Tensor, timestep: &Tensor, ways: &Ways) -> Tensor {
        let guided = self.guidance.as_ref().filter(|guidance| guidance.is_on(part.done)).zip(ways.guided.as_ref());
        let predict = |conditions: &Conditions, samples: &Tensor| {
            conditions.predict(self.unet, self.extras, part, samples, timestep)
        };
        match (guided, &ways.plain) {
            (Some((guidance, conditions)), _) => {
                let doubled = Tensor::cat(&[samples, samples], 0); // [uncond; cond]
                guidance.apply(&predict(conditions, &doubled))
            }
            (None, Some(plain)) => predict(plain, samples),
            (None, None) => unreachable!("plain conditions are there unless guidance is always on"),
        }
    }
}
