//! LoRA files from one dialect to another and back.
#![allow(clippy::unwrap_used)]

#[path = "support/contents.rs"]
mod contents;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;

use contents::{Contents, contents, save};
use half::{bf16, f16};
use ipa_formats::{Conversion, Dtype, FormatError, LoraDialect, TensorInfo, Weights, convert_lora};
use proptest::collection::btree_map;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

/// Modules of Stable Diffusion 1.x and of XL in diffusers' names and in kohya's.
const SD: [(&str, &str); 6] = [
    ("unet.conv_in", "lora_unet_conv_in"),
    ("unet.down_blocks.0.resnets.0.time_emb_proj", "lora_unet_down_blocks_0_resnets_0_time_emb_proj"),
    ("unet.up_blocks.3.attentions.2.proj_out", "lora_unet_up_blocks_3_attentions_2_proj_out"),
    (
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0",
    ),
    (
        "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj",
    ),
    (
        "text_encoder.text_model.encoder.layers.11.self_attn.q_proj",
        "lora_te_text_model_encoder_layers_11_self_attn_q_proj",
    ),
];
const XL: [(&str, &str); 5] = [
    ("unet.add_embedding.linear_2", "lora_unet_label_emb_0_2"),
    (
        "unet.down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_v",
        "lora_unet_input_blocks_8_1_transformer_blocks_9_attn2_to_v",
    ),
    ("unet.up_blocks.1.resnets.2.conv_shortcut", "lora_unet_output_blocks_5_0_skip_connection"),
    ("text_encoder.text_model.encoder.layers.0.mlp.fc2", "lora_te1_text_model_encoder_layers_0_mlp_fc2"),
    ("text_encoder_2.text_model.encoder.layers.31.mlp.fc1", "lora_te2_text_model_encoder_layers_31_mlp_fc1"),
];

fn bytes(dtype: Dtype, numbers: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F16 => numbers.iter().flat_map(|&number| f16::from_f32(number).to_le_bytes()).collect(),
        Dtype::BF16 => numbers.iter().flat_map(|&number| bf16::from_f32(number).to_le_bytes()).collect(),
        _ => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
    }
}

fn numbers((info, bytes): &(TensorInfo, Vec<u8>)) -> Vec<f64> {
    match info.dtype {
        Dtype::F16 => bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f64()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f64()).collect(),
        _ => bytes.as_chunks().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect(),
    }
}

fn tensor(dtype: Dtype, shape: &[usize], value: impl Fn(usize) -> f32) -> (TensorInfo, Vec<u8>) {
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    (TensorInfo { dtype, shape: shape.to_vec() }, bytes(dtype, &values))
}

/// One module's two factors.
#[derive(Clone, Debug)]
struct Factors {
    rank: usize,
    inputs: usize,
    outputs: usize,
    kernel: Option<usize>,
    dtype: Dtype,
    /// The numerator of the scale over the rank.
    scale: Option<f32>,
}

impl Factors {
    fn any() -> impl Strategy<Value = Self> {
        let dtype = select(vec![Dtype::F16, Dtype::BF16, Dtype::F32]);
        let scale = select(vec![None, Some(1.0), Some(0.5), Some(0.25), Some(2.0), Some(0.75)]);
        let kernel = select(vec![None, Some(1), Some(3)]);
        (1..9_usize, 1..6_usize, 1..6_usize, kernel, dtype, scale).prop_map(
            |(rank, inputs, outputs, kernel, dtype, scale)| Self { rank, inputs, outputs, kernel, dtype, scale },
        )
    }

    fn tensors(&self) -> [(TensorInfo, Vec<u8>); 2] {
        let kernel = |size: usize| self.kernel.map_or(vec![], |_| vec![size; 2]);
        let down = [vec![self.rank, self.inputs], kernel(self.kernel.unwrap_or_default())].concat();
        let up = [vec![self.outputs, self.rank], kernel(1)].concat();
        [down, up].map(|shape| tensor(self.dtype, &shape, |index| (index as f32 * 0.37).sin() * 3.0))
    }
}

fn kohya(layers: &BTreeMap<usize, Factors>, names: &[(&str, &str)]) -> Contents {
    let mut contents = Contents::new();
    for (index, factors) in layers {
        let (_, name) = names[*index];
        let [down, up] = factors.tensors();
        contents.insert(format!("{name}.lora_down.weight"), down);
        contents.insert(format!("{name}.lora_up.weight"), up);
        let alpha = factors.scale.map(|scale| tensor(factors.dtype, &[], |_| scale * factors.rank as f32));
        contents.extend(alpha.map(|alpha| (format!("{name}.alpha"), alpha)));
    }
    contents
}

fn plan(input: &Contents, to: LoraDialect) -> Result<Conversion, FormatError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    save(&path, input);
    convert_lora(&path, to, None)
}

fn converted(input: &Contents, to: LoraDialect) -> Contents {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    plan(input, to).unwrap().write(&path, None, None).unwrap();
    contents(&path)
}

fn refusal(input: &Contents, to: LoraDialect) -> String {
    plan(input, to).unwrap_err().source().unwrap().to_string()
}

/// A module's second factor with its scale.
fn effect(contents: &Contents, name: &str) -> Vec<f64> {
    let up = &contents[&format!("{name}.lora_up.weight")];
    let alpha = contents.get(&format!("{name}.alpha")).map_or(up.0.shape[1] as f64, |alpha| numbers(alpha)[0]);
    numbers(up).iter().map(|number| number * alpha / up.0.shape[1] as f64).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn kohya_to_diffusers_and_back_changes_the_same(
        layers in btree_map(0..5_usize, Factors::any(), 1..5),
        is_xl in any::<bool>(),
    ) {
        let names = if is_xl { &XL[..] } else { &SD[..] };
        let before = kohya(&layers, names);
        let between = converted(&before, LoraDialect::Diffusers);
        let expected = layers.keys().flat_map(|index| ["A", "B"].map(|side| format!("{}.lora_{side}.weight", names[*index].0)));
        prop_assert_eq!(between.keys().cloned().collect::<std::collections::BTreeSet<_>>(), expected.collect());
        for (index, factors) in &layers {
            let (dotted, name) = names[*index];
            let [down, up] = factors.tensors();
            prop_assert_eq!(&between[&format!("{dotted}.lora_A.weight")], &down);
            let found = &between[&format!("{dotted}.lora_B.weight")];
            match factors.scale {
                None | Some(1.0) => prop_assert_eq!(found, &up),
                scale => {
                    let tolerance = if scale == Some(0.75) { 0.004 } else { 0.0 }; // what bfloat16 rounds by
                    for (found, expected) in numbers(found).iter().zip(effect(&before, name)) {
                        prop_assert!((found - expected).abs() <= tolerance * expected.abs(), "{} {}", found, expected);
                    }
                }
            }
        }
        let after = converted(&between, LoraDialect::Kohya);
        prop_assert_eq!(after.len(), 3 * layers.len());
        prop_assert_eq!(converted(&after, LoraDialect::Diffusers), between);
    }

    #[test]
    fn diffusers_to_kohya_and_back_is_the_identity(
        layers in btree_map(0..5_usize, Factors::any(), 1..5),
        is_xl in any::<bool>(),
    ) {
        let names = if is_xl { &XL[..] } else { &SD[..] };
        let mut before = Contents::new();
        for (index, factors) in &layers {
            let [down, up] = factors.tensors();
            before.insert(format!("{}.lora_A.weight", names[*index].0), down);
            before.insert(format!("{}.lora_B.weight", names[*index].0), up);
        }
        let between = converted(&before, LoraDialect::Kohya);
        prop_assert_eq!(between.len(), 3 * layers.len());
        prop_assert_eq!(converted(&between, LoraDialect::Diffusers), before);
    }
}

fn pair(down: &str, up: &str) -> Contents {
    let factor = |shape: &[usize]| tensor(Dtype::F16, shape, |index| index as f32 + 1.0);
    [(down.to_owned(), factor(&[2, 3])), (up.to_owned(), factor(&[4, 2]))].into()
}

#[test]
fn the_names_are_those_of_the_tools() {
    for names in [&SD[..], &XL] {
        let layers = (0..names.len()).map(|index| {
            let factors = Factors { rank: 2, inputs: 3, outputs: 4, kernel: None, dtype: Dtype::F16, scale: Some(1.0) };
            (index, factors)
        });
        let before = kohya(&layers.collect(), names);
        let between = converted(&before, LoraDialect::Diffusers);
        let expected = names.iter().map(|(dotted, _)| format!("{dotted}.lora_A.weight")).collect::<Vec<_>>();
        assert!(expected.iter().all(|name| between.contains_key(name)), "{:?}", between.keys());
        assert_eq!(converted(&between, LoraDialect::Kohya), before);
    }
}

#[test]
fn older_names_of_diffusers_are_read() {
    let attention = "down_blocks.0.attentions.0.transformer_blocks.0.attn1";
    let text = "text_encoder.text_model.encoder.layers.0";
    for (down, up, module) in [
        (
            format!("unet.{attention}.processor.to_out_lora.down.weight"),
            format!("unet.{attention}.processor.to_out_lora.up.weight"),
            format!("unet.{attention}.to_out.0"),
        ),
        (
            format!("{attention}.to_q.lora.down.weight"),
            format!("{attention}.to_q.lora.up.weight"),
            format!("unet.{attention}.to_q"),
        ),
        (
            format!("{text}.self_attn.to_out_lora.down.weight"),
            format!("{text}.self_attn.to_out_lora.up.weight"),
            format!("{text}.self_attn.out_proj"),
        ),
        (
            format!("{text}.mlp.fc1.lora_linear_layer.down.weight"),
            format!("{text}.mlp.fc1.lora_linear_layer.up.weight"),
            format!("{text}.mlp.fc1"),
        ),
        (
            "text_encoder.encoder.layers.0.mlp.fc2.lora_A.weight".to_owned(),
            "text_encoder.encoder.layers.0.mlp.fc2.lora_B.weight".to_owned(),
            format!("{text}.mlp.fc2"),
        ),
    ] {
        let made = converted(&pair(&down, &up), LoraDialect::Diffusers);
        assert!(made.keys().eq([&format!("{module}.lora_A.weight"), &format!("{module}.lora_B.weight")]), "{made:?}");
    }
}

/// Diffusers keeps PEFT's settings in the header; ends of paths name modules there, whole paths behind `^`.
#[test]
fn scales_in_the_header_are_read() {
    let attention = "mid_block.attentions.0.transformer_blocks.0.attn1";
    let scales = |settings: serde_json::Value| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lora.safetensors");
        let pairs = ["to_q", "to_k"].map(|matrix| {
            let module = format!("unet.{attention}.{matrix}");
            pair(&format!("{module}.lora_A.weight"), &format!("{module}.lora_B.weight"))
        });
        let one = pairs.into_iter().flatten().map(|(name, (info, data))| (name, info, data));
        let views = one.map(|(name, info, data)| (name, info.shape, data)).collect::<Vec<_>>();
        let views = views.iter().map(|(name, shape, data)| {
            (name.clone(), safetensors::tensor::TensorView::new(safetensors::Dtype::F16, shape.clone(), data).unwrap())
        });
        let metadata =
            [("lora_adapter_metadata".to_owned(), settings.to_string()), ("ss_note".to_owned(), "kept".to_owned())];
        fs::write(&path, safetensors::serialize(views, Some(metadata.into())).unwrap()).unwrap();
        let made = convert_lora(&path, LoraDialect::Kohya, None)?;
        let output = folder.path().join("kohya.safetensors");
        made.write(&output, None, None)?;
        let texts = Weights::open(&output)?.metadata();
        assert_eq!((texts.get("lora_adapter_metadata"), &texts["ss_note"][..]), (None, "kept"));
        let module = attention.replace('.', "_");
        let made = contents(&output);
        Ok::<_, FormatError>(
            ["to_q", "to_k"].map(|matrix| numbers(&made[&format!("lora_unet_{module}_{matrix}.alpha")])[0]),
        )
    };
    assert_eq!(scales(json!({"unet.r": 2, "unet.lora_alpha": 6})).unwrap(), [6.0, 6.0]);
    assert_eq!(scales(json!({"unet.r": 2})).unwrap(), [8.0, 8.0]);
    assert_eq!(scales(json!({"text_encoder.lora_alpha": 6})).unwrap(), [2.0, 2.0]);
    let patterns = |patterns: serde_json::Value| json!({"unet.lora_alpha": 6, "unet.alpha_pattern": patterns});
    assert_eq!(scales(patterns(json!({"to_q": 3}))).unwrap(), [3.0, 6.0]);
    assert_eq!(scales(patterns(json!({"^to_q": 3, format!("^{attention}.to_k"): 5}))).unwrap(), [6.0, 5.0]);
    let rooted = scales(json!({"unet.lora_alpha": 6, "unet.use_rslora": true})).unwrap();
    assert!((rooted[0] - 6.0 * 2f64.sqrt()).abs() < 0.01, "{rooted:?}");
    for (settings, expected) in [
        (json!([]), "no JSON object"),
        (json!({"unet.lora_alpha": "much"}), "no number"),
        (patterns(json!({"to_.*": 3})), "`to_.*`"),
        (patterns(json!({"to_q": 3, "attn1.to_q": 4})), "several scales"),
    ] {
        let error = scales(settings).unwrap_err();
        let error = error.source().unwrap().to_string();
        assert!(error.contains("lora_adapter_metadata") && error.contains(expected), "{error}");
    }
}

#[test]
fn what_has_no_counterpart_is_refused_by_name() {
    let module = "lora_unet_mid_block_attentions_0_proj_in";
    let with = |name: &str| {
        let mut contents = pair(&format!("{module}.lora_down.weight"), &format!("{module}.lora_up.weight"));
        contents.insert(name.to_owned(), tensor(Dtype::F16, &[2, 3], |_| 1.0));
        contents
    };
    for (name, expected) in [
        ("lora_unet_down_blocks_7_resnets_0_conv1.lora_down.weight", "no module"),
        ("lora_te_text_model_encoder_layers_99_mlp_fc1.lora_down.weight", "no module"),
        ("lora_te_vision_model_encoder_layers_0_mlp_fc1.lora_down.weight", "no module"),
        ("lora_unet_conv_in.hada_w1_a", "LoHa"),
        ("lora_unet_conv_in.lokr_w1", "LoKr"),
        ("lora_unet_conv_in.lora_mid.weight", "middle"),
        ("lora_unet_conv_in.dora_scale", "DoRA"),
        ("lora_unet_conv_in.lora_up.weight", "no partner"),
        ("lora_unet_conv_in.alpha", "no partner"),
        ("unet.mid_block.attentions.0.proj_in.lora_A.weight", "the same factor"),
        ("optimizer.step", "no module"),
    ] {
        for to in [LoraDialect::Diffusers, LoraDialect::Kohya] {
            let error = refusal(&with(name), to);
            assert!(error.contains(name) && error.contains(expected), "{error}");
        }
    }
}

#[test]
fn a_scale_that_halves_cannot_hold_is_refused_and_nothing_written() {
    let module = "lora_unet_conv_in";
    let mut contents = pair(&format!("{module}.lora_down.weight"), &format!("{module}.lora_up.weight"));
    contents.insert(format!("{module}.alpha"), tensor(Dtype::F32, &[], |_| 1e6));
    let folder = tempfile::tempdir().unwrap();
    let made = plan(&contents, LoraDialect::Diffusers).unwrap();
    let error = made.write(&folder.path().join("out.safetensors"), None, None).unwrap_err();
    assert!(
        matches!(&error, FormatError::Overflow { name, count: 8, .. } if name == "unet.conv_in.lora_B.weight"),
        "{error}"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_configuration_says_which_modules_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let (path, config) = (folder.path().join("lora.safetensors"), folder.path().join("config.json"));
    save(
        &path,
        &pair(
            "lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight",
            "lora_unet_down_blocks_1_attentions_0_proj_in.lora_up.weight",
        ),
    );
    let with = |types: [&str; 2]| {
        let up: Vec<String> = types.iter().rev().map(|kind| kind.replace("Down", "Up")).collect();
        let fields = json!({"down_block_types": types, "up_block_types": up, "block_out_channels": [32, 64]});
        fs::write(&config, fields.to_string()).unwrap();
        convert_lora(&path, LoraDialect::Diffusers, Some(&config)).map(|made| made.weights().names().count())
    };
    assert_eq!(with(["DownBlock2D", "CrossAttnDownBlock2D"]).unwrap(), 2);
    assert!(matches!(with(["CrossAttnDownBlock2D", "DownBlock2D"]), Err(FormatError::Lora { .. })));
    let error = with(["KDownBlock2D", "DownBlock2D"]).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("KDownBlock2D"), "{error}");
}
