//! Single-file checkpoints against diffusers' own conversion. Reference values: tests/fixtures/single_file.py
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use ipa_formats::{
    Component, Dtype, FolderTensors, ModelTask, ModelVersion, Operation, PredictionType, SafetensorsFile, SingleFile,
    SingleFileError, SingleFileOptions, TensorInfo, TensorPlan, is_single_file, plan_single_file, read_single_file,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

type Tensors = BTreeMap<String, TensorInfo>;
/// Tensors with their bytes.
type Contents = BTreeMap<String, (TensorInfo, Vec<u8>)>;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/single_file").join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(fixture(name)).unwrap()).unwrap()
}

fn half(shape: &[usize]) -> TensorInfo {
    TensorInfo { dtype: Dtype::F16, shape: shape.to_vec() }
}

/// Names and sizes of a tree that says every dot once.
fn ldm_tensors(name: &str) -> Tensors {
    fn walk(path: &str, node: &Value, tensors: &mut Tensors) {
        match node {
            Value::Object(children) => {
                let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                children.iter().for_each(|(key, child)| walk(&join(key), child, tensors));
            }
            sizes => {
                let shape: Vec<usize> = serde_json::from_value(sizes.clone()).unwrap();
                tensors.insert(path.to_owned(), half(&shape));
            }
        }
    }
    let mut tensors = Tensors::new();
    walk("", &json(name), &mut tensors);
    tensors
}

fn inpainting(mut tensors: Tensors) -> Tensors {
    tensors.get_mut("model.diffusion_model.input_blocks.0.0.weight").unwrap().shape[1] = 9;
    tensors
}

fn full_size() -> [(&'static str, Tensors, ModelVersion, ModelTask); 3] {
    let sd15 = ldm_tensors("sd15_ldm.json");
    let sd21 = ldm_tensors("sd21_ldm.json");
    [
        ("sd15", sd15.clone(), ModelVersion::V1, ModelTask::TextToImage),
        ("sd15_inpainting", inpainting(sd15), ModelVersion::V1, ModelTask::Inpainting),
        ("sd21", sd21, ModelVersion::V2, ModelTask::TextToImage),
    ]
}

fn read(tensors: &Tensors) -> Result<SingleFile, SingleFileError> {
    read_single_file(tensors, &SingleFileOptions::default())
}

fn refusal(tensors: &Tensors) -> String {
    read(tensors).unwrap_err().to_string()
}

fn contents(name: &str) -> Contents {
    let file = SafetensorsFile::open(&fixture(name)).unwrap();
    let tensor = |name: &str| (name.to_owned(), (file.info(name).unwrap(), file.data(name).unwrap().to_vec()));
    file.names().map(tensor).collect()
}

fn infos(contents: &Contents) -> Tensors {
    contents.iter().map(|(name, (info, _))| (name.clone(), info.clone())).collect()
}

fn applied(plan: &TensorPlan, sources: &Contents) -> (TensorInfo, Vec<u8>) {
    let sources: Vec<&[u8]> = plan.sources.iter().map(|name| sources[name].1.as_slice()).collect();
    let made = plan.apply(&sources).unwrap();
    assert_eq!((made.dtype, &made.shape), (plan.info.dtype, &plan.info.shape));
    (plan.info.clone(), made.data.into_owned())
}

/// The folder of a single file, by component.
fn folder_of(single: &Contents, options: &SingleFileOptions) -> BTreeMap<Component, Contents> {
    let read = read_single_file(&infos(single), options).unwrap();
    let mut folder = BTreeMap::<Component, Contents>::new();
    for plan in &read.plans {
        folder.entry(plan.component).or_default().insert(plan.name.clone(), applied(plan, single));
    }
    folder
}

fn single_of(folder: &BTreeMap<Component, Contents>, version: ModelVersion) -> Contents {
    let infos: BTreeMap<Component, Tensors> = folder.iter().map(|(key, contents)| (*key, infos(contents))).collect();
    let plans = plan_single_file(&FolderTensors {
        unet: infos.get(&Component::Unet),
        vae: infos.get(&Component::Vae),
        text_encoder: infos.get(&Component::TextEncoder),
        version: Some(version),
    });
    let make = |plan: &TensorPlan| (plan.name.clone(), applied(plan, &folder[&plan.component]));
    plans.unwrap().iter().map(make).collect()
}

#[test]
fn full_size_checkpoints_become_what_diffusers_makes_of_them() {
    let expected = json("full_size.json");
    for (name, tensors, version, task) in full_size() {
        let read = read(&tensors).unwrap();
        let mut lines = Vec::new();
        let mut elements = BTreeMap::<&str, usize>::new();
        for TensorPlan { component, name, info, sources, .. } in &read.plans {
            let sizes: Vec<String> = info.shape.iter().map(usize::to_string).collect();
            lines.push(format!("{component}/{name} [{}] {}\n", sizes.join(","), sources.join(",")));
            *elements.entry(component.folder()).or_default() += info.num_elements();
        }
        lines.sort();
        let digest = Sha256::digest(lines.concat()).iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        });
        assert_eq!(expected[name]["tensors"], lines.len(), "{name}");
        assert_eq!(expected[name]["elements"], serde_json::to_value(elements).unwrap(), "{name}");
        assert_eq!(expected[name]["sha256"], digest, "{name}");
        assert_eq!((read.info.version, read.info.task), (Some(version), Some(task)), "{name}");
        assert_eq!(read.info.unknown, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn configurations_are_those_that_diffusers_infers() {
    let expected = json("full_size.json");
    for (name, tensors, ..) in full_size() {
        let configs = read(&tensors).unwrap().configs;
        for (component, config) in [("unet", configs.unet), ("vae", configs.vae)] {
            let config = config.unwrap();
            for (field, value) in expected[name][component].as_object().unwrap() {
                let found = config.get(field).unwrap_or(&Value::Null);
                assert_eq!(found, value, "{name}: {component} {field}");
            }
        }
    }
}

#[test]
fn text_towers_and_schedules_are_those_of_the_published_folders() {
    let [sd15, inpainting, sd21] = full_size().map(|(_, tensors, ..)| read(&tensors).unwrap().configs);
    let text = sd15.text_encoder.unwrap();
    assert_eq!((&text["num_hidden_layers"], &text["num_attention_heads"]), (&12.into(), &12.into()));
    assert_eq!((&text["hidden_act"], &text["projection_dim"]), (&"quick_gelu".into(), &768.into()));
    assert_eq!((&text["vocab_size"], &text["max_position_embeddings"]), (&49408.into(), &77.into()));
    let text = sd21.text_encoder.unwrap();
    assert_eq!((&text["num_hidden_layers"], &text["num_attention_heads"]), (&23.into(), &16.into()));
    assert_eq!((&text["hidden_act"], &text["intermediate_size"]), (&"gelu".into(), &4096.into()));
    assert_eq!(text["architectures"], serde_json::json!(["CLIPTextModel"]));
    let schedules = [sd15.scheduler, inpainting.scheduler, sd21.scheduler].map(Option::unwrap);
    let predicts = schedules.each_ref().map(|schedule| schedule["prediction_type"].as_str().unwrap());
    assert_eq!(predicts, ["epsilon", "epsilon", "v_prediction"]);
    for schedule in schedules {
        assert_eq!((&schedule["beta_start"], &schedule["beta_end"]), (&0.00085.into(), &0.012.into()));
        assert_eq!((&schedule["steps_offset"], &schedule["set_alpha_to_one"]), (&1.into(), &false.into()));
    }
}

#[test]
fn a_base_model_of_the_second_generation_has_to_be_told() {
    let sd21 = ldm_tensors("sd21_ldm.json");
    let with = |options| {
        let SingleFile { info, configs, .. } = read_single_file(&sd21, &options).unwrap();
        let sample_size = configs.unet.unwrap()["sample_size"].as_u64().unwrap();
        let prediction = configs.scheduler.unwrap()["prediction_type"].as_str().unwrap().to_owned();
        (prediction, sample_size, info.prediction_assumed)
    };
    assert_eq!(with(SingleFileOptions::default()), ("v_prediction".to_owned(), 96, true));
    let told = SingleFileOptions { prediction_type: Some(PredictionType::Epsilon), ..Default::default() };
    let counted = SingleFileOptions { global_step: Some(875_000), ..Default::default() };
    for options in [told, counted] {
        assert_eq!(with(options), ("epsilon".to_owned(), 64, false));
    }
}

#[test]
fn full_size_folders_become_the_single_files_they_came_from() {
    for (name, tensors, ..) in full_size() {
        for whole_text_tower in [false, true] {
            let options = SingleFileOptions { whole_text_tower, ..Default::default() };
            let read = read_single_file(&tensors, &options).unwrap();
            let of = |component| -> Tensors {
                let plans = read.plans.iter().filter(|plan| plan.component == component);
                plans.map(|plan| (plan.name.clone(), plan.info.clone())).collect()
            };
            let [unet, vae, text] = [Component::Unet, Component::Vae, Component::TextEncoder].map(of);
            let folder = FolderTensors { unet: Some(&unet), vae: Some(&vae), text_encoder: Some(&text), version: None };
            let written = plan_single_file(&folder).unwrap();
            let written: Tensors = written.into_iter().map(|plan| (plan.name, plan.info)).collect();
            let unread = |name: &str| {
                name.ends_with("logit_scale")
                    || !whole_text_tower && (name.contains("resblocks.23.") || name.ends_with("text_projection"))
            };
            let mut expected = tensors.clone();
            expected.retain(|name, _| !unread(name));
            assert_eq!(written, expected, "{name}");
        }
    }
}

#[test]
fn converted_values_are_those_of_diffusers() {
    for (name, version) in [("tiny_v1", ModelVersion::V1), ("tiny_v2", ModelVersion::V2)] {
        let single = contents(&format!("{name}.safetensors"));
        assert_eq!(read(&infos(&single)).unwrap().info.version, Some(version));
        let mut found = serde_json::Map::new();
        for (component, tensors) in folder_of(&single, &SingleFileOptions::default()) {
            for (name, (info, bytes)) in tensors {
                let digest = Sha256::digest(&bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                found.insert(format!("{component}/{name}"), serde_json::json!([info.shape, digest]));
            }
        }
        assert_eq!(Value::Object(found), json(&format!("{name}.json")), "{name}");
    }
}

#[test]
fn folder_to_single_file_to_folder_is_the_identity() {
    for (name, version) in [("tiny_v1", ModelVersion::V1), ("tiny_v2", ModelVersion::V2)] {
        let original = contents(&format!("{name}.safetensors"));
        for whole_text_tower in [false, true] {
            let options = SingleFileOptions { whole_text_tower, ..Default::default() };
            let folder = folder_of(&original, &options);
            let single = single_of(&folder, version);
            assert_eq!(folder_of(&single, &options), folder, "{name}");
            if whole_text_tower {
                let mut expected = original.clone();
                expected.retain(|name, _| !name.ends_with("logit_scale"));
                assert_eq!(single, expected, "{name}");
            }
        }
    }
}

#[test]
fn a_folder_without_text_model_prefixes_gives_the_same_file() {
    for (name, version) in [("tiny_v1", ModelVersion::V1), ("tiny_v2", ModelVersion::V2)] {
        let mut folder = folder_of(&contents(&format!("{name}.safetensors")), &SingleFileOptions::default());
        let expected = single_of(&folder, version);
        let text = folder.get_mut(&Component::TextEncoder).unwrap();
        let bare = |(name, tensor): (&String, &(TensorInfo, Vec<u8>))| {
            (name.strip_prefix("text_model.").unwrap().to_owned(), tensor.clone())
        };
        *text = text.iter().map(bare).collect();
        assert_eq!(single_of(&folder, version), expected, "{name}");
    }
}

#[test]
fn prefixes_and_shortened_names_change_nothing() {
    for name in ["sd15_ldm.json", "sd21_ldm.json"] {
        let tensors = ldm_tensors(name);
        let expected = read(&tensors).unwrap();
        let targets = |read: &SingleFile| -> Vec<(Component, String, TensorInfo)> {
            read.plans.iter().map(|plan| (plan.component, plan.name.clone(), plan.info.clone())).collect()
        };
        let renamings: [&dyn Fn(&str) -> String; 5] = [
            &|name| format!("state_dict.{name}"),
            &|name| format!("module.{name}"),
            &|name| name.replace("first_stage_model.", "vae."),
            &|name| name.replace("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."),
            &|name| name.replace("model.diffusion_model.", "diffusion_model."),
        ];
        for rename in renamings {
            let renamed = tensors.iter().map(|(name, info)| (rename(name), info.clone())).collect();
            let read = read(&renamed).unwrap();
            assert_eq!((targets(&read), &read.info), (targets(&expected), &expected.info));
            assert_eq!(read.configs, expected.configs);
        }
    }
}

fn only(tensors: &Tensors, prefix: &str, keep: bool) -> Tensors {
    let part = tensors.iter().filter(|(name, _)| name.starts_with(prefix));
    let name = |name: &str| if keep { name.to_owned() } else { name.replacen(prefix, "", 1) };
    part.map(|(own, info)| (name(own), info.clone())).collect()
}

#[test]
fn models_may_stand_alone() {
    let tensors = ldm_tensors("sd15_ldm.json");
    let all = read(&tensors).unwrap();
    for (component, prefix) in [(Component::Unet, "model.diffusion_model."), (Component::Vae, "first_stage_model.")] {
        for keep in [true, false] {
            let read = read(&only(&tensors, prefix, keep)).unwrap();
            assert_eq!(read.info.components, [component]);
            assert_eq!(read.info.unknown, Vec::<String>::new());
            let expected = all.plans.iter().filter(|plan| plan.component == component);
            assert!(read.plans.iter().map(|plan| &plan.name).eq(expected.map(|plan| &plan.name)));
        }
    }
    let vae = read(&only(&tensors, "first_stage_model.", false)).unwrap();
    assert_eq!((vae.info.version, vae.info.prediction_type), (None, None));
    assert_eq!((vae.configs.vae, vae.configs.scheduler), (all.configs.vae, None));
    let text = read(&only(&tensors, "cond_stage_model.", true)).unwrap();
    assert_eq!(text.configs.text_encoder, all.configs.text_encoder);
    let unet = read(&only(&ldm_tensors("sd21_ldm.json"), "model.diffusion_model.", false)).unwrap();
    assert_eq!(unet.info.version, Some(ModelVersion::V2));
}

/// The UNet's averages beside its weights, under LDM's flattened names.
fn with_averages(single: &Contents) -> Contents {
    let mut both = single.clone();
    for (name, (info, bytes)) in single.iter().filter(|(name, _)| name.starts_with("model.diffusion_model.")) {
        let parts: Vec<&str> = name.split('.').skip(1).collect();
        let inverted = bytes.iter().map(|byte| !byte).collect();
        both.insert(format!("model_ema.{}", parts.concat()), (info.clone(), inverted));
    }
    both.insert("model_ema.decay".to_owned(), (half(&[]), vec![0; 2]));
    both
}

#[test]
fn averages_are_taken_on_request_only() {
    let single = contents("tiny_v1.safetensors");
    let both = with_averages(&single);
    let default = SingleFileOptions::default();
    let averaged = SingleFileOptions { ema: true, ..Default::default() };
    let own = folder_of(&single, &default);
    assert_eq!(folder_of(&both, &default), own);
    let averages = folder_of(&both, &averaged);
    assert_eq!(averages[&Component::Vae], own[&Component::Vae]);
    for (name, (info, bytes)) in &averages[&Component::Unet] {
        let (own_info, own_bytes) = &own[&Component::Unet][name];
        assert_eq!(info, own_info);
        assert!(bytes.iter().zip(own_bytes).all(|(average, own)| *average == !own), "{name}");
    }
    let shown = read(&infos(&both)).unwrap().info;
    assert!(shown.has_ema && !shown.uses_ema && shown.unknown.is_empty());
    assert_eq!(shown.num_unread, averages[&Component::Unet].len() + 1);

    let error = read_single_file(&infos(&single), &averaged).unwrap_err();
    assert_eq!(error, SingleFileError::NoEma);
    let mut alone = infos(&both);
    alone.retain(|name, _| !name.starts_with("model.diffusion_model."));
    assert_eq!(read(&alone).unwrap_err(), SingleFileError::EmaOnly);
}

#[test]
fn leftovers_are_counted_and_strangers_named() {
    let mut tensors = ldm_tensors("sd15_ldm.json");
    let known = [
        "betas",
        "alphas_cumprod",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "cond_stage_model.logit_scale",
        "first_stage_model.loss.perceptual_loss.net.slice1.0.weight",
        "optimizer_states.0.state.3",
    ];
    let strange = ["embedding_manager.token", "model.diffusion_model.input_blocks.1.0.in_layers.3.weight"];
    for name in known.iter().chain(&strange) {
        tensors.insert((*name).to_owned(), half(&[1]));
    }
    let info = read(&tensors).unwrap().info;
    assert_eq!((info.num_unread, &info.unknown[..]), (known.len(), &strange.map(str::to_owned)[..]));
    let shown = info.to_string();
    assert!(shown.starts_with("Stable Diffusion 1.x, single file with unet, vae, text_encoder"), "{shown}");
    assert!(shown.contains("2 tensors unknown, first `embedding_manager.token`"), "{shown}");
}

#[test]
fn other_files_are_refused_by_name() {
    let sd15 = ldm_tensors("sd15_ldm.json");
    let changed = |name: &str, shape: &[usize]| {
        let mut tensors = sd15.clone();
        tensors.insert(name.to_owned(), half(shape));
        tensors
    };
    let xl = refusal(&changed("conditioner.embedders.1.model.ln_final.bias", &[1280]));
    assert!(xl.contains("Stable Diffusion XL"), "{xl}");
    let depth = refusal(&changed("model.diffusion_model.input_blocks.0.0.weight", &[320, 5, 3, 3]));
    assert!(depth.contains("depth"), "{depth}");
    let instruct = read(&changed("model.diffusion_model.input_blocks.0.0.weight", &[320, 8, 3, 3])).unwrap();
    assert_eq!(instruct.info.task, Some(ModelTask::InstructPix2Pix));
    assert!(instruct.info.to_string().contains("InstructPix2Pix"));

    let folder = Tensors::from([("down_blocks.0.resnets.0.conv1.weight".to_owned(), half(&[1]))]);
    assert!(refusal(&folder).contains("diffusers"));
    assert_eq!(read(&Tensors::new()).unwrap_err(), SingleFileError::Unknown);
    assert!(is_single_file(&sd15) && !is_single_file(&folder) && !is_single_file(&Tensors::new()));
}

/// Some tools write a 2.x UNet with convolutions, some merges mix both kinds.
#[test]
fn projections_take_the_form_of_their_file_and_of_their_generation() {
    let single = contents("tiny_v2.safetensors");
    let mut mixed = single.clone();
    let name = "model.diffusion_model.output_blocks.1.1.proj_in.weight";
    mixed.get_mut(name).unwrap().0.shape.extend([1, 1]);
    let default = SingleFileOptions::default();
    let folder = folder_of(&single, &default);
    assert_eq!(folder_of(&mixed, &default), folder);

    let mut convolutional = folder.clone();
    for (name, (info, _)) in convolutional.get_mut(&Component::Unet).unwrap() {
        if name.ends_with(".proj_in.weight") || name.ends_with(".proj_out.weight") {
            info.shape.extend([1, 1]);
        }
    }
    assert_ne!(convolutional, folder);
    assert_eq!(single_of(&convolutional, ModelVersion::V2), single_of(&folder, ModelVersion::V2));
}

#[test]
fn old_names_of_the_autoencoders_attention_are_written_as_the_new_ones() {
    let mut folder = folder_of(&contents("tiny_v1.safetensors"), &SingleFileOptions::default());
    let expected = single_of(&folder, ModelVersion::V1);
    let vae = folder.get_mut(&Component::Vae).unwrap();
    let old = |name: &str| {
        let pairs = [("to_q.", "query."), ("to_k.", "key."), ("to_v.", "value."), ("to_out.0.", "proj_attn.")];
        pairs.iter().fold(name.to_owned(), |name, (new, old)| name.replace(new, old))
    };
    *vae = vae.iter().map(|(name, tensor)| (old(name), tensor.clone())).collect();
    assert!(vae.contains_key("decoder.mid_block.attentions.0.proj_attn.weight"));
    assert_eq!(single_of(&folder, ModelVersion::V1), expected);

    let twice = "decoder.mid_block.attentions.0.to_q.bias".to_owned();
    let mut infos = infos(&folder[&Component::Vae]);
    infos.insert(twice.clone(), half(&[6]));
    let error = plan_single_file(&FolderTensors { vae: Some(&infos), ..Default::default() }).unwrap_err();
    assert!(matches!(&error, SingleFileError::Collision { sources, .. } if sources.contains(&twice)), "{error}");
}

#[test]
fn folders_that_no_single_file_holds_are_refused_with_the_tensor() {
    let folder = folder_of(&contents("tiny_v2.safetensors"), &SingleFileOptions::default());
    let refused = |component: Component, change: &dyn Fn(&mut Tensors)| {
        let mut tensors = infos(&folder[&component]);
        change(&mut tensors);
        let mut folder = FolderTensors { version: Some(ModelVersion::V2), ..Default::default() };
        match component {
            Component::Unet => folder.unet = Some(&tensors),
            Component::Vae => folder.vae = Some(&tensors),
            Component::TextEncoder => folder.text_encoder = Some(&tensors),
        }
        plan_single_file(&folder).unwrap_err().to_string()
    };
    let stranger = |tensors: &mut Tensors| drop(tensors.insert("add_embedding.linear_1.bias".into(), half(&[1])));
    for component in [Component::Unet, Component::Vae, Component::TextEncoder] {
        let error = refused(component, &stranger);
        assert!(error.contains("`add_embedding.linear_1.bias`") && error.contains(component.folder()), "{error}");
    }
    let [q, k] = ["q", "k"].map(|part| format!("text_model.encoder.layers.1.self_attn.{part}_proj.weight"));
    for lost in [&q, &k] {
        let error = refused(Component::TextEncoder, &|tensors| drop(tensors.remove(lost)));
        assert!(error.contains(&format!("`{lost}` is missing")), "{error}");
    }
    let error = refused(Component::TextEncoder, &|tensors| tensors.get_mut(&k).unwrap().shape[0] = 5);
    assert!(error.contains(&k) && error.contains(&q), "{error}");
}

/// Files come from strangers: whatever is missing or misshapen, the answer is a plan or an error.
#[test]
fn damaged_files_are_read_or_refused() {
    let shapes: [&[usize]; 5] = [&[], &[0], &[usize::MAX], &[7, 0, 1, 1], &[2, 3, 1]];
    for name in ["tiny_v1.safetensors", "tiny_v2.safetensors"] {
        let single = contents(name);
        let (whole, averaged, mut refused) = (infos(&single), infos(&with_averages(&single)), 0);
        let mut judge = |tensors: &Tensors, options: &SingleFileOptions| match read_single_file(tensors, options) {
            Ok(read) => assert!(read.plans.iter().all(|plan| tensors.contains_key(&plan.sources[0]))),
            Err(error) => refused += usize::from(!error.to_string().is_empty()),
        };
        for (index, damaged) in whole.keys().enumerate() {
            let mut tensors = whole.clone();
            tensors.get_mut(damaged).unwrap().shape = shapes[index % shapes.len()].to_vec();
            judge(&tensors, &SingleFileOptions { whole_text_tower: true, ..Default::default() });
            tensors.remove(damaged);
            judge(&tensors, &SingleFileOptions::default());
        }
        for (index, damaged) in averaged.keys().enumerate().step_by(7) {
            let mut tensors = averaged.clone();
            tensors.get_mut(damaged).unwrap().shape = shapes[index % shapes.len()].to_vec();
            judge(&tensors, &SingleFileOptions { ema: true, ..Default::default() });
        }
        assert!(refused > 30, "{refused}");
    }
}

#[test]
fn operations_are_those_of_the_layouts() {
    let sd21 = ldm_tensors("sd21_ldm.json");
    let options = SingleFileOptions { whole_text_tower: true, ..Default::default() };
    let read = read_single_file(&sd21, &options).unwrap();
    let operation = |name: &str| read.plans.iter().find(|plan| plan.name == name).unwrap().operation;
    assert_eq!(operation("encoder.mid_block.attentions.0.to_k.weight"), Operation::Reshape);
    assert_eq!(operation("encoder.mid_block.attentions.0.to_k.bias"), Operation::AsIs);
    assert_eq!(operation("mid_block.attentions.0.proj_in.weight"), Operation::AsIs);
    assert_eq!(operation("text_model.encoder.layers.7.self_attn.v_proj.weight"), Operation::Third(2));
    assert_eq!(operation("text_projection.weight"), Operation::Transpose);
    assert_eq!(read.configs.text_encoder.unwrap()["num_hidden_layers"], 24);
}
