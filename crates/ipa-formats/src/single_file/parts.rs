//! Where the models of a single file begin: the prefixes of their names.

use std::collections::BTreeMap;

use super::SingleFileError;
use crate::TensorInfo;

/// Tensors by name.
pub(super) type Tensors = BTreeMap<String, TensorInfo>;

/// One tensor of every LDM UNet, autoencoder, CLIP text tower and OpenCLIP text tower.
pub(super) const UNET_ANCHOR: &str = "input_blocks.0.0.weight";
const VAE_ANCHOR: &str = "decoder.mid.block_1.conv1.weight";
const CLIP_ANCHOR: &str = "embeddings.token_embedding.weight";
const OPEN_CLIP_ANCHOR: &str = "token_embedding.weight";

/// Prefixes of the published layouts, the one that diffusers prefers first.
const UNET_PREFIXES: [&str; 2] = ["model.diffusion_model.", "diffusion_model."];
const VAE_PREFIXES: [&str; 2] = ["vae.", "first_stage_model."];
const CLIP_PREFIXES: [&str; 2] = ["cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."];
const OPEN_CLIP_PREFIXES: [&str; 1] = ["cond_stage_model.model."];

/// Where one model of a file begins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Prefix {
    /// What stands before everything, such as `state_dict.`; mostly nothing.
    pub(super) outer: String,
    /// The whole prefix.
    pub(super) full: String,
}

/// Which layout the text tower is in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Tower {
    Clip,
    OpenClip,
}

/// Where the models of a file begin.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Parts {
    pub(super) unet: Option<Prefix>,
    pub(super) vae: Option<Prefix>,
    pub(super) text: Option<(Prefix, Tower)>,
}

impl Parts {
    /// Finds the models by one tensor of each. UNet and autoencoder may stand alone without a prefix of
    /// their own; text towers are looked for under the published prefixes only.
    pub(super) fn find(tensors: &Tensors) -> Result<Self, SingleFileError> {
        let clip = find(tensors, CLIP_ANCHOR, &CLIP_PREFIXES, false)?.map(|prefix| (prefix, Tower::Clip));
        let open_clip = || find(tensors, OPEN_CLIP_ANCHOR, &OPEN_CLIP_PREFIXES, false);
        Ok(Self {
            unet: find(tensors, UNET_ANCHOR, &UNET_PREFIXES, true)?,
            vae: find(tensors, VAE_ANCHOR, &VAE_PREFIXES, true)?,
            text: match clip {
                Some(text) => Some(text),
                None => open_clip()?.map(|prefix| (prefix, Tower::OpenClip)),
            },
        })
    }

    /// Whether no model was found.
    pub(super) fn is_empty(&self) -> bool {
        self.unet.is_none() && self.vae.is_none() && self.text.is_none()
    }

    /// Prefixes that stand before everything, for what belongs to no model.
    pub(super) fn outer(&self) -> impl Iterator<Item = &str> {
        let prefixes = [self.unet.as_ref(), self.vae.as_ref(), self.text.as_ref().map(|(prefix, _)| prefix)];
        prefixes.into_iter().flatten().map(|prefix| prefix.outer.as_str())
    }
}

fn find(tensors: &Tensors, anchor: &str, published: &[&str], bare: bool) -> Result<Option<Prefix>, SingleFileError> {
    let starts = tensors.keys().filter_map(|name| name.strip_suffix(anchor));
    let starts: Vec<&str> = starts.filter(|start| start.is_empty() || start.ends_with('.')).collect();
    let under = |inner: &str| -> Vec<Prefix> {
        let outer = starts.iter().filter_map(|start| start.strip_suffix(inner));
        let outer = outer.filter(|outer| outer.is_empty() || outer.ends_with('.'));
        outer.map(|outer| Prefix { outer: outer.to_owned(), full: format!("{outer}{inner}") }).collect()
    };
    for inner in published {
        if let Some(prefix) = the_one(under(inner))? {
            return Ok(Some(prefix));
        }
    }
    // The embeddings of a ControlNet's blocks have a UNet's names.
    let alone = under("").into_iter().filter(|prefix| bare && !prefix.full.ends_with("control_model.")).collect();
    the_one(alone)
}

/// The only candidate, or the one with nothing before it, as the reference reads it.
fn the_one(candidates: Vec<Prefix>) -> Result<Option<Prefix>, SingleFileError> {
    match &candidates[..] {
        [] => Ok(None),
        [only] => Ok(Some(only.clone())),
        several => match several.iter().find(|prefix| prefix.outer.is_empty()) {
            Some(plain) => Ok(Some(plain.clone())),
            None => Err(SingleFileError::Ambiguous { prefixes: several.iter().map(|p| p.full.clone()).collect() }),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Dtype;

    fn parts(names: &[&str]) -> Result<Parts, SingleFileError> {
        let info = TensorInfo { dtype: Dtype::F16, shape: vec![] };
        Parts::find(&names.iter().map(|name| ((*name).to_owned(), info.clone())).collect())
    }

    fn unet(names: &[&str]) -> Option<String> {
        parts(names).unwrap().unet.map(|prefix| prefix.full)
    }

    #[test]
    fn prefixes_of_merges_and_wrappers_are_found() {
        for start in ["", "model.", "model.diffusion_model.", "diffusion_model.", "state_dict.model.diffusion_model."] {
            let name = format!("{start}input_blocks.0.0.weight");
            assert_eq!(unet(&[&name]).as_deref(), Some(start));
        }
        assert_eq!(unet(&["not_input_blocks.0.0.weight"]), None);
        let found = parts(&["state_dict.first_stage_model.decoder.mid.block_1.conv1.weight"]).unwrap();
        let vae = Prefix { outer: "state_dict.".into(), full: "state_dict.first_stage_model.".into() };
        assert_eq!(found.vae.as_ref(), Some(&vae));
        assert!(found.outer().eq(["state_dict."]));
        let bare = parts(&["decoder.mid.block_1.conv1.weight"]).unwrap();
        assert_eq!(bare.vae, Some(Prefix { outer: String::new(), full: String::new() }));
    }

    #[test]
    fn text_towers_are_told_apart_by_their_prefixes() {
        let text = |name: &str| parts(&[name]).unwrap().text.map(|(prefix, tower)| (prefix.full, tower));
        for prefix in CLIP_PREFIXES {
            let name = format!("{prefix}embeddings.token_embedding.weight");
            assert_eq!(text(&name), Some((prefix.to_owned(), Tower::Clip)));
        }
        let open_clip = text("cond_stage_model.model.token_embedding.weight");
        assert_eq!(open_clip, Some(("cond_stage_model.model.".to_owned(), Tower::OpenClip)));
        assert_eq!(text("text_model.embeddings.token_embedding.weight"), None);
    }

    #[test]
    fn the_plain_prefix_wins_and_equals_are_refused() {
        let plain = "model.diffusion_model.input_blocks.0.0.weight";
        let copies =
            ["a.model.diffusion_model.input_blocks.0.0.weight", "b.model.diffusion_model.input_blocks.0.0.weight"];
        assert_eq!(unet(&[copies[0], plain, copies[1]]).as_deref(), Some("model.diffusion_model."));
        assert_eq!(unet(&[copies[1]]).as_deref(), Some("b.model.diffusion_model."));
        let error = parts(&copies).unwrap_err().to_string();
        assert!(error.contains("a.model.diffusion_model., b.model.diffusion_model."), "{error}");
    }

    #[test]
    fn a_control_net_is_no_unet() {
        assert_eq!(unet(&["control_model.input_blocks.0.0.weight"]), None);
        let both = ["control_model.input_blocks.0.0.weight", "model.diffusion_model.input_blocks.0.0.weight"];
        assert_eq!(unet(&both).as_deref(), Some("model.diffusion_model."));
    }
}
