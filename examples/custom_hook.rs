//! A kind of adapter that this workspace does not know, in a program of its own:
//! `cargo run --release -p ipa --example custom_hook -- assets/pocket OUT.png "a red circle" 1.5`
//!
//! It reads nothing but the queries, so it needs no training: every place also attends to the places that ask for the
//! same, which changes how surfaces look and not what is there. The same trait carries trained adapters: with keys and
//! values by site, `ipa_adapter::ImagePrompt::new` is such a hook already.

use std::error::Error;
use std::ops::ControlFlow;

use ipa::core::attention;
use ipa::sample::{Extras, Pictures};
use ipa::tch::{Device, Kind, Tensor};
use ipa::unet::{CrossAttentionHook, SiteId};
use ipa::{GenerateRequest, PictureFormat, Pipeline, write_picture};

/// Adds to cross-attention, in the layers on the way up, the mean query of the places that resemble each place.
struct Consistency {
    strength: f64,
    first_site: usize,
}

impl CrossAttentionHook for Consistency {
    fn attend(&self, SiteId(site): SiteId, query: &Tensor) -> Option<Tensor> {
        let resembling = || attention(query, query, query); // [batch, heads, places, head_dim], as it has to be
        (site >= self.first_site).then(|| resembling() * self.strength)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, output, prompt, strength] = arguments.as_slice() else {
        return Err("give MODEL OUT.png PROMPT STRENGTH".into());
    };
    let pipeline = Pipeline::load(model.as_ref(), (Device::Cpu, Kind::Float))?;
    let counts = pipeline.unet().config().site_counts();
    let hook = Consistency { strength: strength.parse()?, first_site: counts.down + counts.mid };

    let request = GenerateRequest { prompt: prompt.clone(), ..GenerateRequest::default() };
    let extras = Extras { hook: Some(&hook), ..Extras::default() };
    let generated = pipeline.generate_with(&request, Pictures::default(), extras, |_step| ControlFlow::Continue(()))?;
    let picture = &generated.pictures[0];
    write_picture(output.as_ref(), picture, &pipeline.record(&request, 0, picture), PictureFormat::Png)?;
    Ok(())
}
