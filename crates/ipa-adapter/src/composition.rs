//! Several image prompts at once, each in its own time.

use ipa_core::tch::Tensor;
use ipa_unet::{CrossAttentionHook, SiteId};

use crate::ImagePrompt;
use crate::prompt::Part;

/// During which part of sampling an image prompt acts, and how strongly in the course of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    /// Share of the calls of the model after which it begins.
    pub start: f64,
    /// Share of the calls after which it ends.
    pub end: f64,
    /// Factors on the strength, the first at the beginning of sampling, the last at its end, others evenly between;
    /// interpolated. None is 1 throughout.
    pub curve: Vec<f64>,
}

impl Default for Timing {
    fn default() -> Self {
        Self { start: 0.0, end: 1.0, curve: Vec::new() }
    }
}

impl Timing {
    /// The factor when `done` of the calls, in `[0, 1)`, are behind; 0 outside of its part.
    pub fn factor(&self, done: f64) -> f64 {
        if !(self.start..self.end).contains(&done) {
            return 0.0;
        }
        match &self.curve[..] {
            [] => 1.0,
            [only] => *only,
            curve => {
                let position = done * (curve.len() - 1) as f64;
                let index = (position as usize).min(curve.len() - 2);
                let (from, to) = (curve[index], curve[index + 1]);
                from + (to - from) * (position - index as f64)
            }
        }
    }
}

/// Image prompts that add up.
#[derive(Debug, Default)]
pub struct Composition {
    prompts: Vec<(ImagePrompt, Timing)>,
}

impl Composition {
    /// Of prompts with their timings, for one UNet and batch.
    pub fn new(prompts: Vec<(ImagePrompt, Timing)>) -> Self {
        Self { prompts }
    }

    /// The hook for a call of the model when `done` of the calls, in `[0, 1)`, are behind.
    pub fn at(&self, done: f64) -> ComposedPrompt<'_> {
        let all = self.prompts.iter().enumerate();
        let at = all.map(|(index, (prompt, timing))| Acting { index, prompt, factor: timing.factor(done) });
        ComposedPrompt { prompts: at.filter(|acting| acting.factor != 0.0).collect() }
    }
}

/// The image prompts that act in one call of the model.
#[derive(Debug)]
pub struct ComposedPrompt<'a> {
    prompts: Vec<Acting<'a>>,
}

#[derive(Debug)]
struct Acting<'a> {
    index: usize,
    prompt: &'a ImagePrompt,
    factor: f64,
}

impl ComposedPrompt<'_> {
    /// The numbers of the prompts that act.
    pub fn acting(&self) -> Vec<usize> {
        self.prompts.iter().map(|acting| acting.index).collect()
    }

    /// The same with how strongly each acts.
    pub fn factors(&self) -> Vec<(usize, f64)> {
        self.prompts.iter().map(|acting| (acting.index, acting.factor)).collect()
    }

    /// What the UNet reads as text: [`ImagePrompt::context`] of each in turn.
    pub fn context(&self, text: &Tensor) -> Tensor {
        self.prompts.iter().fold(text.shallow_clone(), |text, acting| acting.prompt.context(&text, acting.factor))
    }

    /// What acts at a layer: number of the prompt, number of the part in it, part.
    pub(crate) fn parts(&self, site: SiteId) -> impl Iterator<Item = (usize, usize, &Part)> {
        let acting = self.prompts.iter().filter(move |acting| acting.prompt.is_present(site));
        acting.flat_map(|acting| {
            acting.prompt.parts.iter().enumerate().map(|(number, part)| (acting.index, number, part))
        })
    }
}

impl CrossAttentionHook for ComposedPrompt<'_> {
    /// The sum of what each adds, times its factor.
    fn attend(&self, site: SiteId, query: &Tensor) -> Option<Tensor> {
        let each = self.prompts.iter().filter_map(|Acting { prompt, factor, .. }| {
            let added = prompt.attend(site, query)?;
            Some(if *factor == 1.0 { added } else { added * *factor })
        });
        each.reduce(|sum, more| sum + more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timing_has_its_part_of_sampling_and_its_course() {
        let always = Timing::default();
        assert_eq!([0.0, 0.5, 0.99].map(|done| always.factor(done)), [1.0; 3]);
        let window = Timing { start: 0.25, end: 0.75, ..Timing::default() };
        assert_eq!([0.0, 0.25, 0.5, 0.75].map(|done| window.factor(done)), [0.0, 1.0, 1.0, 0.0]);
        let curve = Timing { curve: vec![1.0, 0.5, 0.0], ..Timing::default() };
        assert_eq!([0.0, 0.25, 0.5, 0.75].map(|done| curve.factor(done)), [1.0, 0.75, 0.5, 0.25]);
        let constant = Timing { curve: vec![0.3; 4], ..Timing::default() };
        assert_eq!([0.0, 0.4, 0.99].map(|done| constant.factor(done)), [0.3; 3]);
    }
}
