//! One adapter under every set of names is the same adapter to the byte; what is said of it must fit its tensors.
#![allow(clippy::unwrap_used)]

#[path = "support/published.rs"]
mod published;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use ipa_formats::AdapterKind::*;
use ipa_formats::{
    AdapterCoupling, AdapterDialect, AdapterFile, AdapterKind, AdapterOptions, AdapterVariant, BaseModel, Dtype,
    FormatError, Numbering, TensorBytes, TensorInfo, is_adapter, recognise_adapter, write_safetensors,
};
use published::{Sizes, Tensors, adapter, info, projection};
use serde_json::{Value, json};

const KINDS: [AdapterKind; 7] = [Classic, Plus, FullFace, FaceId, FaceIdPlus, Portrait, PortraitUnnorm];

/// Shape and bytes by name.
type Filled = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

fn tiny(kind: AdapterKind) -> Filled {
    let sizes = match kind {
        Portrait => Sizes { tokens: 16, ..Sizes::tiny() },
        PortraitUnnorm => Sizes { input: 512, ..Sizes::tiny() },
        _ => Sizes::tiny(),
    };
    filled(adapter(kind, &sizes))
}

/// Different bytes for every tensor.
fn filled(tensors: Tensors) -> Filled {
    let bytes = |name: &str, len: usize| -> Vec<u8> {
        let seed = name.bytes().fold(7u32, |seed, byte| seed.wrapping_mul(31).wrapping_add(u32::from(byte)));
        (0..len as u32).map(|place| (seed.wrapping_add(place).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    };
    tensors
        .into_iter()
        .map(|(name, info)| (name.clone(), (info.shape.clone(), bytes(&name, info.num_bytes()))))
        .collect()
}

fn write(path: &Path, tensors: &Filled, metadata: Option<&Value>) {
    let tensor = |(name, (shape, data)): (&String, &(Vec<usize>, Vec<u8>))| TensorBytes {
        name: name.clone(),
        dtype: Dtype::F16,
        shape: shape.clone(),
        data: data.clone().into(),
    };
    write_safetensors(path, tensors.iter().map(tensor).collect(), metadata).unwrap();
}

fn opened(tensors: &Filled, metadata: Option<&Value>, options: &AdapterOptions) -> Result<AdapterFile, FormatError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.safetensors");
    write(&path, tensors, metadata);
    AdapterFile::open(&path, options)
}

fn read(tensors: &Filled) -> AdapterFile {
    opened(tensors, None, &AdapterOptions::default()).unwrap()
}

fn refusal(tensors: &Filled) -> String {
    refusal_with(tensors, None, &AdapterOptions::default())
}

fn refusal_with(tensors: &Filled, metadata: Option<&Value>, options: &AdapterOptions) -> String {
    opened(tensors, metadata, options).unwrap_err().source().unwrap().to_string()
}

fn variant(variant: AdapterVariant) -> AdapterOptions {
    AdapterOptions { variant: Some(variant), ..AdapterOptions::default() }
}

fn assert_is(file: &AdapterFile, published: &Filled, dialect: AdapterDialect) {
    assert_eq!(file.dialect(), dialect);
    assert!(file.weights().names().eq(published.keys()));
    for (name, (shape, data)) in published {
        assert_eq!(&file.weights().info(name).unwrap().shape, shape, "{name}");
        assert_eq!(file.weights().data(name).unwrap(), &data[..], "{name}");
    }
}

fn renamed(tensors: &Filled, rename: impl Fn(&str) -> String) -> Filled {
    tensors.iter().map(|(name, tensor)| (rename(name), tensor.clone())).collect()
}

/// Processors by number, of a UNet with the layers of SD1.5.
fn processors() -> Vec<String> {
    let down =
        (0..3).flat_map(|block| (0..2).map(move |attention| format!("down_blocks.{block}.attentions.{attention}")));
    let up = (1..4).flat_map(|block| (0..3).map(move |attention| format!("up_blocks.{block}.attentions.{attention}")));
    let blocks = down.chain(up).chain(["mid_block.attentions.0".to_owned()]);
    blocks.flat_map(|block| [1, 2].map(|attn| format!("{block}.transformer_blocks.0.attn{attn}.processor"))).collect()
}

fn under_processors(name: &str, unet: &str) -> String {
    let Some(rest) = name.strip_prefix("ip_adapter.") else { return name.to_owned() };
    let (number, rest) = rest.split_once('.').unwrap();
    format!("{unet}{}.{rest}", processors()[number.parse::<usize>().unwrap()])
}

/// As diffusers' loader converts a projection.
fn to_diffusers(kind: AdapterKind, tensors: &Filled, prefix: &str) -> Filled {
    let mut made = Filled::new();
    for (name, (shape, data)) in tensors {
        let Some(rest) = name.strip_prefix("image_proj.") else {
            made.insert(name.clone(), (shape.clone(), data.clone()));
            continue;
        };
        let rest = diffusers_name(kind, rest);
        if rest.contains(".to_kv.") {
            let half = vec![shape[0] / 2, shape[1]];
            for (part, data) in ["to_k", "to_v"].into_iter().zip(data.chunks(data.len() / 2)) {
                made.insert(format!("{prefix}{}", rest.replace("to_kv", part)), (half.clone(), data.to_vec()));
            }
        } else {
            made.insert(format!("{prefix}{rest}"), (shape.clone(), data.clone()));
        }
    }
    made
}

fn diffusers_name(kind: AdapterKind, rest: &str) -> String {
    let renames: &[(&str, &str)] = match kind {
        Classic => &[("proj.", "image_embeds.")],
        FullFace => &[("proj.0.", "ff.net.0.proj."), ("proj.2.", "ff.net.2."), ("proj.3.", "norm.")],
        FaceId | Portrait => &[("proj.0.", "ff.net.0.proj."), ("proj.2.", "ff.net.2.")],
        _ => &[("proj.0.", "proj.net.0.proj."), ("proj.2.", "proj.net.2.")],
    };
    let renamed = renames.iter().find_map(|(from, to)| Some(format!("{to}{}", rest.strip_prefix(from)?)));
    let name = renamed.unwrap_or_else(|| rest.replace("perceiver_resampler.", ""));
    let inner = [
        (".0.norm1.", ".ln0."),
        (".0.norm2.", ".ln1."),
        (".0.to_q.", ".attn.to_q."),
        (".0.to_kv.", ".attn.to_kv."),
        (".0.to_out.", ".attn.to_out.0."),
        (".1.0.", ".ff.0."),
        (".1.1.", ".ff.1.net.0.proj."),
        (".1.3.", ".ff.1.net.2."),
    ];
    match name.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
        Some((layer, rest)) => {
            let rest = format!(".{rest}");
            let renamed = inner.iter().find_map(|(from, to)| Some(format!("{to}{}", rest.strip_prefix(from)?)));
            format!("layers.{layer}{}", renamed.unwrap())
        }
        None => name,
    }
}

#[test]
fn published_names_are_kept() {
    for kind in KINDS {
        let tensors = tiny(kind);
        let file = read(&tensors);
        assert_is(&file, &tensors, AdapterDialect::Published);
        assert_eq!(file.info().kind, kind);
    }
}

#[test]
fn the_trainer_has_other_prefixes() {
    for kind in KINDS {
        let tensors = tiny(kind);
        let trainer = |name: &str| {
            let name = name.replace("ip_adapter.", "adapter_modules.");
            name.strip_prefix("image_proj.").map_or(name.clone(), |rest| format!("image_proj_model.{rest}"))
        };
        assert_is(&read(&renamed(&tensors, trainer)), &tensors, AdapterDialect::Trainer);
        let wrapped = |name: &str| format!("module.{}", trainer(name));
        assert_is(&read(&renamed(&tensors, wrapped)), &tensors, AdapterDialect::Trainer);
        let community = |name: &str| name.replace("ip_adapter.", "adapter_modules.");
        assert_is(&read(&renamed(&tensors, community)), &tensors, AdapterDialect::Trainer);
    }
}

#[test]
fn processors_are_numbered_down_up_middle() {
    for kind in KINDS {
        let tensors = tiny(kind);
        for unet in ["", "unet."] {
            let file = read(&renamed(&tensors, |name| under_processors(name, unet)));
            assert_is(&file, &tensors, AdapterDialect::Processors);
            let indexed = |name: &str| under_processors(name, unet).replace("_ip.weight", "_ip.0.weight");
            assert_is(&read(&renamed(&tensors, indexed)), &tensors, AdapterDialect::Processors);
        }
    }
}

#[test]
fn blocks_are_sorted_by_number_not_by_letter() {
    let mut tensors = filled(projection(Classic, &Sizes::tiny()));
    let place = |transformer: usize| format!("unet.up_blocks.0.attentions.0.transformer_blocks.{transformer}");
    for transformer in 0..11 {
        for part in ["k", "v"] {
            let name = format!("{}.attn2.processor.to_{part}_ip.weight", place(transformer));
            tensors.insert(name, (vec![1, 12], vec![transformer as u8; 24]));
        }
    }
    let file = read(&tensors);
    let of = |number: usize| file.weights().data(&format!("ip_adapter.{number}.to_k_ip.weight")).unwrap()[0];
    assert!((0..11).map(|layer| usize::from(of(2 * layer + 1))).eq(0..11));
}

#[test]
fn a_dump_of_the_trainer_holds_the_unet_and_shared_tensors() {
    let tensors = tiny(FaceId);
    let mut dump =
        renamed(&tensors, |name| under_processors(name, "unet.").replace("image_proj.", "image_proj_model."));
    dump.extend(filled(Tensors::from([
        ("unet.conv_in.weight".to_owned(), info(&[2, 2])),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight".to_owned(), info(&[8, 12])),
    ])));
    assert_is(&read(&dump), &tensors, AdapterDialect::Processors);
    dump.extend(renamed(&tensors, |name| name.replace("ip_adapter.", "adapter_modules.")).into_iter().filter(
        |(name, _)| name.starts_with("adapter_modules."), // the trainer registers them twice
    ));
    assert_is(&read(&dump), &tensors, AdapterDialect::Trainer);
    let odd = "unet.down_blocks.0.attentions.0.motion_modules.0.processor.to_k_ip.weight";
    dump.insert(odd.to_owned(), (vec![1], vec![0; 2]));
    assert!(refusal(&dump).contains(odd));
}

#[test]
fn diffusers_names_are_read_back() {
    for kind in KINDS {
        let tensors = tiny(kind);
        for prefix in ["encoder_hid_proj.image_projection_layers.0.", "image_projection_layers.0."] {
            let converted = to_diffusers(kind, &tensors, prefix);
            assert_is(&read(&converted), &tensors, AdapterDialect::Diffusers);
            let whole = renamed(&converted, |name| under_processors(name, "").replace("_ip.weight", "_ip.0.weight"));
            assert_is(&read(&whole), &tensors, AdapterDialect::Diffusers);
        }
    }
}

#[test]
fn a_fault_in_diffusers_names_is_named_as_in_the_file() {
    for kind in KINDS {
        let whole = to_diffusers(kind, &tiny(kind), "image_projection_layers.0.");
        for name in whole.keys().filter(|name| name.starts_with("image_projection_layers.")) {
            let mut bent = whole.clone();
            let (shape, data) = bent.get_mut(name).unwrap();
            shape.push(1);
            shape.push(2);
            data.extend(data.clone());
            assert!(refusal(&bent).contains(&format!("`{name}`")), "{name}: {}", refusal(&bent));
            let mut cut = whole.clone();
            cut.remove(name);
            assert!(refusal(&cut).contains("is missing"), "{name}: {}", refusal(&cut));
        }
    }
    let mut cut = to_diffusers(Plus, &tiny(Plus), "image_projection_layers.0.");
    let value = "image_projection_layers.0.layers.1.attn.to_v.weight";
    cut.remove(value);
    assert!(refusal(&cut).contains(value));
}

#[test]
fn a_second_adapter_is_refused_by_name() {
    for name in [
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_ip.1.weight",
        "encoder_hid_proj.image_projection_layers.1.norm.weight",
    ] {
        let mut two = tiny(Classic);
        two.insert(name.to_owned(), (vec![1], vec![0; 2]));
        assert!(refusal(&two).contains(name) && refusal(&two).contains("second adapter"), "{}", refusal(&two));
    }
}

#[test]
fn a_tensor_under_two_names_is_refused() {
    let mut two = tiny(Classic);
    let copy = two["ip_adapter.1.to_k_ip.weight"].clone();
    two.insert("adapter_modules.1.to_k_ip.weight".to_owned(), copy);
    let error = refusal(&two);
    assert!(error.contains("`adapter_modules.1.to_k_ip.weight` and `ip_adapter.1.to_k_ip.weight`"), "{error}");
}

#[test]
fn dense_numbers_need_to_be_told() {
    let tensors = tiny(Plus);
    let dense = renamed(&tensors, |name| {
        let Some(rest) = name.strip_prefix("ip_adapter.") else { return name.to_owned() };
        let (number, rest) = rest.split_once('.').unwrap();
        format!("ip_adapter.{}.{rest}", number.parse::<usize>().unwrap() / 2)
    });
    assert!(refusal(&dense).contains("`--adapter-numbering dense`"), "{}", refusal(&dense));
    let told = AdapterOptions { numbering: Numbering::Dense, ..AdapterOptions::default() };
    assert_is(&opened(&dense, None, &told).unwrap(), &tensors, AdapterDialect::Published);
    assert!(refusal_with(&tensors, None, &told).contains("leave out `--adapter-numbering dense`"));
}

fn prefused(kind: AdapterKind) -> Filled {
    let mut tensors = tiny(kind);
    let mut add = |name: &str, shape: &[usize]| {
        tensors.extend(filled(Tensors::from([(format!("prefusion.{name}"), info(shape))])));
    };
    ["norm.weight", "norm.bias"].iter().for_each(|name| add(name, &[12]));
    ["to_q", "to_k", "to_v", "to_out"].iter().for_each(|name| add(&format!("{name}.weight"), &[12, 12]));
    tensors
}

#[test]
fn prefusion_stands_beside_a_whole_adapter() {
    for kind in [Classic, Plus] {
        let tensors = prefused(kind);
        let file = read(&tensors);
        assert_is(&file, &tensors, AdapterDialect::Published);
        assert_eq!((file.info().kind, file.info().coupling), (kind, AdapterCoupling::Prefused));
        assert_eq!(file.info().variant(), AdapterVariant::Prefusion);
        for name in tensors.keys().filter(|name| name.starts_with("prefusion.")) {
            let mut cut = tensors.clone();
            cut.remove(name);
            assert!(refusal(&cut).contains(name));
            cut.insert(name.clone(), (vec![13, 12], vec![0; 2 * 13 * 12]));
            assert!(refusal(&cut).contains(name));
        }
    }
    assert!(refusal(&prefused(FullFace)).contains("`prefusion."));
}

#[test]
fn a_simple_adapter_has_to_be_said_to_be_one() {
    for (kind, context, base) in
        [(Classic, 768, BaseModel::Sd15), (Plus, 2048, BaseModel::Sdxl), (Classic, 12, BaseModel::Other)]
    {
        let tensors = filled(projection(kind, &Sizes { context, ..Sizes::tiny() }));
        assert!(refusal(&tensors).contains("`ip_adapter.1.to_k_ip.weight` is missing"));
        let said = opened(&tensors, Some(&json!({ "variant": "simple" })), &AdapterOptions::default()).unwrap();
        let told = opened(&tensors, None, &variant(AdapterVariant::Simple)).unwrap();
        assert_eq!(said.info(), told.info());
        let info = said.info();
        assert_eq!((info.kind, info.coupling, info.base), (kind, AdapterCoupling::Concatenated, base));
        assert_eq!((info.num_layers, info.cross_attention_dim, info.num_tokens), (0, context, 4));
    }
    assert!(refusal_with(&tiny(Classic), None, &variant(AdapterVariant::Simple)).contains("tensors say `base`"));
}

#[test]
fn what_is_said_must_fit_the_tensors() {
    for (kind, metadata, expected) in [
        (Classic, json!({ "variant": "plus" }), ["`variant` says `plus`", "`base`"]),
        (Plus, json!({ "variant": "classic" }), ["`variant` says `base`", "`plus`"]),
        (Classic, json!({ "variant": "prefusion" }), ["`variant` says `prefusion`", "`base`"]),
        (FaceId, json!({ "variant": "portrait" }), ["`variant` says `portrait`", "`faceid`"]),
        (Classic, json!({ "num_tokens": 16 }), ["`num_tokens` says `16`", "`4`"]),
        (Classic, json!({ "variant": "plus-face" }), ["`variant`", "plus-face"]),
        (Classic, json!({ "variant": 3 }), ["`variant`", "`3`"]),
        (Classic, json!({ "num_tokens": -1 }), ["`num_tokens`", "`-1`"]),
    ] {
        let error = refusal_with(&tiny(kind), Some(&metadata), &AdapterOptions::default());
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
    }
    let error = refusal_with(&tiny(Classic), None, &variant(AdapterVariant::Plus));
    assert!(error.contains("`--adapter-variant` says `plus`"), "{error}");
    let fits = json!({ "variant": "classic", "num_tokens": 4, "steps": 7 });
    assert!(opened(&tiny(Classic), Some(&fits), &AdapterOptions::default()).is_ok());
}

#[test]
fn what_tensors_leave_open_may_be_said() {
    let tensors = tiny(FaceIdPlus);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ip-adapter-faceid-plusv2_tiny.safetensors");
    write(&path, &tensors, None);
    let kind = |options: &AdapterOptions| AdapterFile::open(&path, options).unwrap().info().kind;
    assert_eq!(kind(&AdapterOptions::default()), FaceIdPlusV2);
    assert_eq!(kind(&variant(AdapterVariant::FaceIdPlus)), FaceIdPlus);
    let said = json!({ "variant": "faceid-plusv2" });
    let kind = |options: &AdapterOptions| opened(&tensors, Some(&said), options).unwrap().info().kind;
    assert_eq!(kind(&AdapterOptions::default()), FaceIdPlusV2);
    assert_eq!(kind(&variant(AdapterVariant::FaceIdPlus)), FaceIdPlus);
    let portrait = opened(&tiny(Plus), None, &variant(AdapterVariant::PortraitUnnorm)).unwrap();
    assert_eq!((portrait.info().kind, portrait.info().face_embed_dim), (PortraitUnnorm, Some(10)));
}

#[test]
fn a_faceid_adapter_may_have_its_lora_elsewhere() {
    let mut tensors = tiny(FaceId);
    tensors.retain(|name, _| !name.contains("_lora."));
    let file = read(&tensors);
    assert_eq!((file.info().kind, file.info().has_lora), (FaceId, false));
}

#[test]
fn lora_alone_and_other_models_are_no_adapters() {
    let named = |name: &str| Tensors::from([(name.to_owned(), info(&[1]))]);
    let block = "down_blocks.0.attentions.0.transformer_blocks.0.attn2";
    for (name, expected) in [
        ("image_proj.latents".to_owned(), true),
        ("module.image_proj_model.norm.bias".to_owned(), true),
        ("adapter_modules.1.to_k_ip.weight".to_owned(), true),
        (format!("unet.{block}.processor.to_k_ip.0.weight"), true),
        ("encoder_hid_proj.image_projection_layers.0.norm.bias".to_owned(), true),
        (format!("unet.{block}.processor.to_q_lora.down.weight"), false),
        (format!("{block}.to_k.weight"), false),
        ("encoder_hid_proj.weight".to_owned(), false),
        ("conv_in.weight".to_owned(), false),
    ] {
        assert_eq!(is_adapter(&named(&name)), expected, "{name}");
    }
}

#[test]
fn hostile_headers_are_refused_quickly() {
    let huge = |shape: &[usize]| TensorInfo { dtype: Dtype::F32, shape: shape.to_vec() };
    let mut many = Tensors::new();
    for layer in 0..30_000 {
        many.insert(format!("image_proj.layers.{layer}.0.to_q.weight"), huge(&[usize::MAX / 2, 0]));
        let block = format!("unet.up_blocks.{}.attentions.{}.transformer_blocks", layer / 900, layer % 900);
        many.insert(format!("{block}.1.attn2.processor.to_k_ip.weight"), huge(&[0, usize::MAX / 2]));
    }
    assert!(recognise_adapter(&many, &AdapterOptions::default()).is_err());
    for (name, shape) in [
        ("image_projection_layers.0.layers.0.attn.to_k.weight", &[usize::MAX / 2, 0][..]),
        ("image_projection_layers.0.layers.0.attn.to_v.weight", &[]),
        ("image_proj.proj.weight", &[usize::MAX, 0]),
        ("image_proj.layers.0.0.to_q.weight", &[usize::MAX / 64 * 64, 0]),
        ("ip_adapter..to_k_ip.weight", &[1, 1]),
        ("ip_adapter.1.to_k_ip.weight", &[0, 0]),
    ] {
        let mut tensors = Tensors::from([(name.to_owned(), huge(shape))]);
        assert!(recognise_adapter(&tensors, &AdapterOptions::default()).is_err(), "{name}");
        tensors.insert(name.replace("to_k", "to_v"), huge(shape));
        assert!(recognise_adapter(&tensors, &AdapterOptions::default()).is_err(), "{name}");
    }
}
