//! The attention layers of a UNet in the order in which adapter files number them.

use serde_json::Value;

use super::paths::{BlockPlace, Section};

/// Names of the transformer blocks of Stable Diffusion 1.x and 2.x.
const NUM_SD: usize = 16;
/// Of SDXL.
const NUM_SDXL: usize = 70;
/// More than any UNet has, of anything that is counted.
const MAX_COUNT: usize = 256;
/// More transformer blocks than any UNet has.
const MAX_BLOCKS: usize = 4096;

/// The transformer blocks of a UNet, each with a self- and a cross-attention layer, as the reference registers them:
/// blocks going down, blocks going up, the middle block.
///
/// ```
/// use ipa_formats::UnetLayers;
///
/// let layers = UnetLayers::of_family(16).unwrap();
/// assert_eq!(layers.len(), 16);
/// assert_eq!(layers.name(3), Some("down_blocks.0.attentions.1.transformer_blocks.0.attn2".to_owned()));
/// assert_eq!(layers.name(31), Some("mid_block.attentions.0.transformer_blocks.0.attn2".to_owned()));
/// ```
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct UnetLayers {
    places: Vec<BlockPlace>, // sorted
}

/// A field of a UNet's `config.json` that does not tell its layers.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("field `{field}` does not tell the attention layers, expected {expected}; give the config.json of a UNet")]
pub struct UnetLayersError {
    field: &'static str,
    expected: &'static str,
}

impl UnetLayers {
    /// Those of the published UNets with so many cross-attention layers: 16 in Stable Diffusion 1.x and 2.x, 70 in SDXL.
    pub fn of_family(num_layers: usize) -> Option<Self> {
        let sections: &[(Section, usize, usize, usize)] = match num_layers {
            NUM_SD => &[
                (Section::Down, 0, 2, 1),
                (Section::Down, 1, 2, 1),
                (Section::Down, 2, 2, 1),
                (Section::Up, 1, 3, 1),
                (Section::Up, 2, 3, 1),
                (Section::Up, 3, 3, 1),
                (Section::Mid, 0, 1, 1),
            ],
            NUM_SDXL => &[
                (Section::Down, 1, 2, 2),
                (Section::Down, 2, 2, 10),
                (Section::Up, 0, 3, 10),
                (Section::Up, 1, 3, 2),
                (Section::Mid, 0, 1, 10),
            ],
            _ => return None,
        };
        Some(Self::of_sections(sections.iter().copied()))
    }

    /// Those of a UNet with this `config.json`, by its types and numbers of blocks and layers.
    ///
    /// # Errors
    /// [`UnetLayersError`] naming the field that is not as in such a file.
    pub fn from_config(config: &Value) -> Result<Self, UnetLayersError> {
        let (down, up) = (types(config, "down_block_types")?, types(config, "up_block_types")?);
        let num_blocks = down.len();
        let expected = UnetLayersError { field: "up_block_types", expected: "as many blocks as go down" };
        (up.len() == num_blocks).then_some(()).ok_or(expected)?;
        let resnets = counts(config, "layers_per_block", num_blocks)?;
        let transformers = transformers(config, "transformer_layers_per_block", num_blocks)?;
        let reversed: Vec<Vec<usize>> = match config.get("reverse_transformer_layers_per_block") {
            None | Some(Value::Null) => transformers.iter().rev().cloned().collect(),
            Some(_) => self::transformers(config, "reverse_transformer_layers_per_block", num_blocks)?,
        };
        let most = transformers.iter().chain(&reversed).flatten().max().copied().unwrap_or_default();
        let rows: usize = resnets.iter().map(|resnets| 2 * resnets + 1).sum();
        if rows.saturating_mul(most) > MAX_BLOCKS {
            let field = "transformer_layers_per_block";
            return Err(UnetLayersError { field, expected: "fewer, as no UNet has so many" });
        }
        let mut places = Vec::new();
        for block in (0..num_blocks).filter(|&block| down[block]) {
            places.extend(in_block(Section::Down, block, resnets[block], &transformers[block]));
        }
        for block in (0..num_blocks).filter(|&block| up[block]) {
            let resnets = resnets[num_blocks - 1 - block] + 1;
            places.extend(in_block(Section::Up, block, resnets, &reversed[block]));
        }
        if config.get("mid_block_type").is_none_or(|mid| mid.as_str().is_some_and(attends)) {
            let last = transformers.last().cloned().unwrap_or_default();
            places.extend(in_block(Section::Mid, 0, 1, &last[..last.len().min(1)]));
        }
        Ok(Self { places })
    }

    fn of_sections(sections: impl Iterator<Item = (Section, usize, usize, usize)>) -> Self {
        let places = sections
            .flat_map(|(section, block, attentions, depth)| in_block(section, block, attentions, &[depth]))
            .collect();
        Self { places }
    }

    /// Those at these places.
    pub(super) fn of_places(places: impl IntoIterator<Item = BlockPlace>) -> Self {
        let mut places: Vec<_> = places.into_iter().collect();
        places.sort_unstable();
        places.dedup();
        Self { places }
    }

    /// A place that has to have a block too if these are all of a UNet's: one that a published UNet has which these are
    /// most of, or one before another in its row.
    pub(super) fn gap(&self) -> Option<String> {
        let families = [NUM_SD, NUM_SDXL].into_iter().filter_map(Self::of_family);
        for family in families.filter(|family| self.places.iter().all(|place| family.places.contains(place))) {
            match family.places.iter().find(|place| !self.places.contains(place)) {
                None => return None,
                Some(missing) if 2 * self.len() > family.len() => return Some(missing.to_string()),
                Some(_) => {}
            }
        }
        let before = |place: &BlockPlace| {
            let attention =
                place.attention.checked_sub(1).map(|attention| BlockPlace { attention, transformer: 0, ..*place });
            let transformer = place.transformer.checked_sub(1).map(|transformer| BlockPlace { transformer, ..*place });
            [attention, transformer]
        };
        let needed = self.places.iter().flat_map(before).flatten();
        needed.into_iter().find(|place| !self.places.contains(place)).map(|place| place.to_string())
    }

    /// Number of transformer blocks, which is that of cross-attention layers.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Name of the attention layer with this number, self-attention even, cross-attention odd.
    pub fn name(&self, number: usize) -> Option<String> {
        let place = self.places.get(number / 2)?;
        Some(format!("{place}.attn{}", number % 2 + 1))
    }

    /// How many transformer blocks lie in `attention`, such as `mid_block.attentions.0`.
    pub(crate) fn transformers(&self, attention: &str) -> usize {
        let within = |place: &BlockPlace| {
            place.to_string().strip_prefix(attention).is_some_and(|rest| rest.starts_with(".transformer_blocks."))
        };
        self.places.iter().filter(|place| within(place)).count()
    }

    /// Number of an attention layer.
    pub(super) fn number(&self, place: BlockPlace, cross: bool) -> Option<usize> {
        let block = self.places.binary_search(&place).ok()?;
        Some(2 * block + usize::from(cross))
    }
}

/// The transformer blocks of one block; of a single number of them, every attention has as many.
fn in_block(section: Section, block: usize, attentions: usize, transformers: &[usize]) -> Vec<BlockPlace> {
    let depth = move |attention: usize| transformers.get(attention).or(transformers.last()).copied().unwrap_or(1);
    (0..attentions)
        .flat_map(|attention| {
            (0..depth(attention)).map(move |transformer| BlockPlace { section, block, attention, transformer })
        })
        .collect()
}

/// Whether each block has attention to the text.
fn types(config: &Value, field: &'static str) -> Result<Vec<bool>, UnetLayersError> {
    let fault = UnetLayersError { field, expected: "a list of names of blocks" };
    let types = config.get(field).and_then(Value::as_array).filter(|types| types.len() <= MAX_COUNT);
    types.and_then(|types| types.iter().map(|name| name.as_str().map(attends)).collect()).ok_or(fault)
}

fn attends(block_type: &str) -> bool {
    block_type.contains("CrossAttn")
}

/// A number for every block, or a list with each block's own.
fn counts(config: &Value, field: &'static str, num_blocks: usize) -> Result<Vec<usize>, UnetLayersError> {
    let fault = UnetLayersError { field, expected: "a small number, or one for every block" };
    let found = match config.get(field) {
        None => Some(vec![2; num_blocks]),
        Some(Value::Array(list)) => list.iter().map(count).collect(),
        Some(value) => count(value).map(|count| vec![count; num_blocks]),
    };
    found.filter(|counts| counts.len() == num_blocks).ok_or(fault)
}

/// Transformers of every block: one number for all its attentions, or each one's own.
fn transformers(config: &Value, field: &'static str, num_blocks: usize) -> Result<Vec<Vec<usize>>, UnetLayersError> {
    let fault = UnetLayersError { field, expected: "a small number, or one or a list for every block" };
    let of_block = |value: &Value| match value {
        Value::Array(list) if !list.is_empty() => list.iter().map(count).collect(),
        value => count(value).map(|count| vec![count]),
    };
    let found: Option<Vec<Vec<usize>>> = match config.get(field) {
        None => Some(vec![vec![1]; num_blocks]),
        Some(Value::Array(list)) => list.iter().map(of_block).collect(),
        Some(value) => count(value).map(|count| vec![vec![count]; num_blocks]),
    };
    found.filter(|counts| counts.len() == num_blocks).ok_or(fault)
}

fn count(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|&count| count <= MAX_COUNT)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sd15() -> Value {
        json!({
            "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
            "layers_per_block": 2,
        })
    }

    fn sdxl() -> Value {
        json!({
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "layers_per_block": 2,
            "transformer_layers_per_block": [1, 2, 10],
            "reverse_transformer_layers_per_block": null,
            "mid_block_type": "UNetMidBlock2DCrossAttn",
        })
    }

    #[test]
    fn families_are_those_of_their_configurations() {
        for (config, num_layers) in [(sd15(), NUM_SD), (sdxl(), NUM_SDXL)] {
            let layers = UnetLayers::from_config(&config).unwrap();
            assert_eq!(layers, UnetLayers::of_family(num_layers).unwrap());
            assert_eq!(layers.len(), num_layers);
            assert!(layers.places.is_sorted());
        }
        let sdxl = UnetLayers::of_family(NUM_SDXL).unwrap();
        for (number, name) in [
            (1, "down_blocks.1.attentions.0.transformer_blocks.0.attn2"),
            (27, "down_blocks.2.attentions.0.transformer_blocks.9.attn2"),
            (49, "up_blocks.0.attentions.0.transformer_blocks.0.attn2"),
            (119, "up_blocks.1.attentions.2.transformer_blocks.1.attn2"),
            (120, "mid_block.attentions.0.transformer_blocks.0.attn1"),
            (139, "mid_block.attentions.0.transformer_blocks.9.attn2"),
        ] {
            assert_eq!(sdxl.name(number).as_deref(), Some(name));
        }
        assert_eq!((sdxl.name(140), UnetLayers::of_family(15)), (None, None));
    }

    #[test]
    fn uneven_models_are_read() {
        let config = json!({
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "layers_per_block": [1, 2],
            "transformer_layers_per_block": [[3], 1],
            "reverse_transformer_layers_per_block": [1, [2, 1]],
            "mid_block_type": null,
        });
        let layers = UnetLayers::from_config(&config).unwrap();
        let names = (0..layers.len()).filter_map(|block| layers.name(2 * block)).collect::<Vec<_>>();
        let block = |name: &str, transformer: usize| format!("{name}.transformer_blocks.{transformer}.attn1");
        let down = (0..3).map(|transformer| block("down_blocks.0.attentions.0", transformer));
        let up = [0, 1].map(|transformer| block("up_blocks.1.attentions.0", transformer));
        let up = up.into_iter().chain([block("up_blocks.1.attentions.1", 0)]);
        assert_eq!(names, down.chain(up).collect::<Vec<_>>());
    }

    #[test]
    fn fields_of_something_else_are_named() {
        for (field, value) in [
            ("down_block_types", json!("CrossAttnDownBlock2D")),
            ("up_block_types", json!(["UpBlock2D"])),
            ("layers_per_block", json!([1, 2])),
            ("layers_per_block", json!(1e300)),
            ("transformer_layers_per_block", json!({"a": 1})),
            ("reverse_transformer_layers_per_block", json!(-1)),
        ] {
            let mut config = sd15();
            config[field] = value;
            let error = UnetLayers::from_config(&config).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
        assert!(UnetLayers::from_config(&json!([])).is_err());
    }
}
