//! One call of the model: what it reads, with or without guidance, for all pictures or some at a time.

use std::collections::BTreeMap;
use std::{fmt, ptr};

use ipa_adapter::{AttentionMaps, ComposedPrompt, Composition, WatchedCall};
use ipa_core::FewerProducts;
use ipa_core::tch::Tensor;
use ipa_unet::{Conditions as Read, CrossAttentionHook, SiteId, Unet};

use crate::graph::{CallKind, Recorder};
use crate::guidance::Guidance;
use crate::reuse::{Reuse, UnetCall};
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
    model: Model<'a>,
    guidance: Option<Guidance>,
    num_images: i64,
    batch: i64,
    /// By number of pictures in a call: whole batches and the rest.
    conditions: BTreeMap<i64, Ways>,
}

impl<'a> Denoiser<'a> {
    /// `conditions` makes them for a number of pictures, with or without guidance. Calls are recorded if there is a recorder.
    pub(crate) fn new(
        (unet, recorder): (&'a Unet, Option<Recorder<'a>>),
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
        // A hook of the caller's may do otherwise in every call, and maps are gathered outside of the graph.
        let recorder = recorder.filter(|_| extras.hook.is_none() && extras.maps.is_none());
        let model = Model { unet, extras, recorder, reuse: Reuse::of(request), calls: Vec::new() };
        Ok(Self { model, guidance, num_images, batch, conditions })
    }

    /// What the model says of the samples when `done` of the calls, in `[0, 1)`, are behind.
    pub(crate) fn predict(&mut self, done: f64, samples: &Tensor, timestep: &Tensor) -> Tensor {
        let _fewer = FewerProducts::new();
        let Self { model, guidance, num_images, batch, conditions } = self;
        let guidance = guidance.as_ref().filter(|guidance| guidance.is_on(done));
        let predict = |first: i64| {
            let part = Part { first, num: (*batch).min(*num_images - first), done };
            let (samples, ways) = (samples.narrow(0, first, part.num), &conditions[&part.num]);
            match (guidance.zip(ways.guided.as_ref()), &ways.plain) {
                (Some((guidance, conditions)), _) => {
                    let doubled = Tensor::cat(&[&samples, &samples], 0); // [uncond; cond]
                    guidance.apply(&model.predict(conditions, part, &doubled, timestep))
                }
                (None, Some(plain)) => model.predict(plain, part, &samples, timestep),
                (None, None) => unreachable!("plain conditions are there unless guidance is always on"),
            }
        };
        let parts: Vec<Tensor> = (0..*num_images).step_by(*batch as usize).map(predict).collect();
        Tensor::cat(&parts, 0)
    }

    /// The calls that were made.
    pub(crate) fn into_calls(self) -> Vec<UnetCall> {
        self.model.calls
    }
}

/// The UNet with what goes with all its calls.
struct Model<'a> {
    unet: &'a Unet,
    extras: Extras<'a>,
    recorder: Option<Recorder<'a>>,
    reuse: Option<Reuse>,
    calls: Vec<UnetCall>,
}

impl Model<'_> {
    fn predict(&mut self, conditions: &Conditions, part: Part, latents: &Tensor, timestep: &Tensor) -> Tensor {
        let prompt = conditions.prompts.at(part.done);
        let size = latents.size();
        let (None, Some(recorder)) = (&self.reuse, &mut self.recorder) else {
            return self.predict_unrecorded(&prompt, &conditions.context, part, (latents, timestep));
        };
        self.calls.push(UnetCall { rows: size[0], branch: None });
        let kind = CallKind { conditions: ptr::from_ref(conditions).addr(), factors: prompt.factors() };
        recorder.predict((kind, part.done), (latents, timestep), |latents, timestep| {
            self.unet.forward(latents, timestep, &prompt.context(&conditions.context), &prompt)
        })
    }

    fn predict_unrecorded(
        &mut self,
        prompt: &ComposedPrompt,
        context: &Tensor,
        part: Part,
        (latents, timestep): (&Tensor, &Tensor),
    ) -> Tensor {
        let (context, size) = (prompt.context(context), latents.size());
        let call = WatchedCall { first: part.first, num: part.num, height: size[2], width: size[3] };
        let watched = self.extras.maps.map(|maps| maps.watching(prompt, call));
        let own: &dyn CrossAttentionHook = watched.as_ref().map_or(prompt as _, |watched| watched);
        let both = self.extras.hook.map(|added| Both { own, added });
        let hook = both.as_ref().map_or(own, |both| both);
        let Some(reuse) = &mut self.reuse else {
            self.calls.push(UnetCall { rows: size[0], branch: None });
            return self.unet.forward(latents, timestep, &context, hook);
        };
        let time_embeds = self.unet.time_embeds(timestep, latents);
        let read = Read { time_embeds: &time_embeds, context: &context, hook };
        let (prediction, call) = reuse.predict(self.unet, part.first, prompt.acting(), latents, &read);
        self.calls.push(call);
        prediction
    }
}
