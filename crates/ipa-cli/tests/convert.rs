//! `ipa convert`, `ipa verify` and weights by name: what is said, what is written, and what is not.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::Ipa;
use support::files::{
    assert_empty, copy_folder, edit_tensors, entries_below, fixture, read_tensors, tiny_sd, write_tensors, zeros,
};
use tempfile::TempDir;

fn convert(input: &Path) -> Ipa {
    Ipa::new("convert").and(input)
}

/// The one object that `--json` prints.
#[track_caller]
fn told(command: Ipa) -> Value {
    let mut lines = command.and("--json").run().done().json_lines();
    assert_eq!(lines.len(), 1);
    lines.remove(0)
}

fn same_tensors(a: &Path, b: &Path) -> bool {
    let [a, b] = [a, b].map(read_tensors);
    let of = |tensors: &[ipa_formats::TensorBytes]| -> Vec<_> {
        let mut of: Vec<_> =
            tensors.iter().map(|t| (t.name.clone(), t.dtype, t.shape.clone(), t.data.to_vec())).collect();
        of.sort_by(|a, b| a.0.cmp(&b.0));
        of
    };
    of(&a) == of(&b)
}

/// A trainer's output folder with a checkpoint of the reference's own making.
fn trained() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for step in ["checkpoint-2", "checkpoint-10"] {
        fs::create_dir(folder.path().join(step)).unwrap();
    }
    let last = folder.path().join("checkpoint-10");
    fs::copy(fixture("trainer_checkpoints/base/model.safetensors"), last.join("model.safetensors")).unwrap();
    for name in ["optimizer.bin", "random_states_0.pkl"] {
        fs::write(last.join(name), "not looked at").unwrap();
    }
    folder
}

#[test]
fn a_trainers_folder_becomes_an_adapter_in_one_command() {
    let (folder, elsewhere) = (trained(), tempfile::tempdir().unwrap());
    let said = convert(folder.path()).run_in(elsewhere.path()).done().stdout;
    assert!(said.contains("base adapter, 4 tokens, 4 layers") && said.contains("208 left out"), "{said}");
    let output = elsewhere.path().join("trained_ip_adapter.safetensors");
    assert!(same_tensors(&output, &fixture("trainer_checkpoints/base/expected.safetensors")));
}

#[test]
fn every_tensor_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (fixture("trainer_checkpoints/base/pytorch_model.bin"), folder.path().join("a.safetensors"));
    let told = told(convert(&input).and(&output).with("--dtype", "f16"));
    let written = &told["written"][0];
    assert_eq!((written["tensors"].as_array().unwrap().len(), written["dropped"].as_array().unwrap().len()), (12, 216));
    assert_eq!(written["tensors"][0]["from"][0], "image_proj_model.norm.bias");
    assert_eq!((&written["tensors"][0]["dtype"], &written["tensors"][0]["written"]), (&"F32".into(), &"F16".into()));
    assert_eq!(told["dialect"], "trainer");
    let said = convert(&input).and(&output).and("--tensors").run().done().stdout;
    assert!(said.contains("adapter_modules.7.to_v_ip.weight -> ip_adapter.7.to_v_ip.weight"), "{said}");
    assert!(said.contains("the same tensor as adapter_modules.7.to_v_ip.weight"), "{said}");
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for (input, output) in [(tiny_sd("ip_adapter.safetensors"), "a.safetensors"), (tiny_sd(""), "model")] {
        let said = convert(&input).and(folder.path().join(output)).and("--dry-run").run().done().stdout;
        assert!(said.contains("would be written"), "{said}");
    }
    assert_empty(folder.path());
}

#[test]
fn a_lora_goes_out_and_in() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let whole = fixture("faces/face_id.safetensors");
    convert(&whole).and(at("bare.safetensors")).with("--lora-output", at("lora.safetensors")).run().done();
    assert!(same_tensors(&at("bare.safetensors"), &fixture("faces/face_id_bare.safetensors")));
    convert(&at("bare.safetensors")).and(at("joined.safetensors")).with("--lora", at("lora.safetensors")).run().done();
    assert!(same_tensors(&at("joined.safetensors"), &whole));
    convert(&at("lora.safetensors")).and(at("d.safetensors")).with("--to", "diffusers").run().done();
    let names: Vec<String> = read_tensors(&at("d.safetensors")).into_iter().map(|tensor| tensor.name).collect();
    assert!(names.iter().all(|name| name.starts_with("unet.") && name.contains(".lora_")), "{names:?}");
    convert(&at("d.safetensors")).and(at("k.safetensors")).with("--to", "kohya").run().done();
    assert_eq!(read_tensors(&at("k.safetensors")).len(), names.len() / 2 * 3, "with an alpha each");
}

#[test]
fn a_model_changes_its_form() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let said = convert(&tiny_sd("")).and(at("one.safetensors")).run().done().stdout;
    assert!(said.contains("left out  tokenizer/"), "{said}");
    let command = convert(&at("one.safetensors")).and(at("new/model")).with("--tokenizer", tiny_sd("tokenizer"));
    let told = told(command);
    assert!(told["notes"].as_array().unwrap().iter().any(|note| note.as_str().unwrap().contains("predicts")));
    for part in ["unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"] {
        assert!(same_tensors(&at("new/model").join(part), &tiny_sd(part)), "{part}");
    }
    assert!(entries_below(&at("new/model/tokenizer")).iter().any(|name| name.ends_with("merges.txt")));
    convert(&at("new/model")).and(at("half")).with("--dtype", "bf16").run().done();
    let inspected = Ipa::new("inspect").and(at("half")).run().done().stdout;
    assert!(inspected.contains("BF16"), "{inspected}");
}

#[test]
fn failures_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::copy(tiny_sd("ip_adapter.safetensors"), at("in.safetensors")).unwrap();
    edit_tensors(&at("in.safetensors"), |tensors| {
        tensors.retain(|tensor| tensor.name != "ip_adapter.3.to_k_ip.weight")
    });
    let refused = convert(&at("in.safetensors")).and(at("out/a.safetensors")).run();
    refused.refused(1, &["ip_adapter.3.to_k_ip.weight", "missing", "in.safetensors"]);
    let partial = convert(&at("in.safetensors")).and(at("part.safetensors")).and("--allow-missing").run().done().stdout;
    assert!(partial.contains("missing   ip_adapter.3.to_k_ip.weight"), "{partial}");
    fs::remove_file(at("part.safetensors")).unwrap();
    edit_tensors(&at("in.safetensors"), |tensors| tensors.push(zeros("stranger", &[2])));
    let dropped = convert(&at("in.safetensors")).and(at("part.safetensors")).and("--allow-missing");
    dropped.clone().run().refused(1, &["stranger"]);
    let said = dropped.and("--drop-unknown").run().done().stdout;
    assert!(said.contains("left out  stranger"), "{said}");
    fs::remove_file(at("part.safetensors")).unwrap();
    // A disk that fills up, in the middle of a file and of a folder.
    convert(&tiny_sd("ip_adapter.safetensors"))
        .and(at("full.safetensors"))
        .run_on_a_full_disk(64)
        .refused(1, &["full"]);
    convert(&tiny_sd("")).and(at("full")).run_on_a_full_disk(1000).refused(1, &["cannot write"]);
    fs::remove_file(at("in.safetensors")).unwrap();
    assert_eq!(entries_below(folder.path()).into_iter().filter(|name| !name.ends_with("out")).count(), 0);
}

#[test]
fn arguments_that_do_not_go_together_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (adapter, lora) = (tiny_sd("ip_adapter.safetensors"), fixture("faces/face_id_lora.safetensors"));
    for (command, words) in [
        (convert(&adapter), &["no output"][..]),
        (convert(&adapter).and(at("a.bin")), &["a.bin", ".safetensors"]),
        (convert(&adapter).and(at("a")).with("--to", "folder"), &["--to", "published"]),
        (convert(&adapter).and(at("a")).and("--ema"), &["--ema"]),
        (convert(&lora).and(at("a")).with("--to", "published"), &["--to", "kohya"]),
        (convert(&lora).and(at("a")).and("--drop-unknown"), &["--drop-unknown"]),
        (convert(&lora).and(at("a")).and("--allow-missing"), &["--allow-missing"]),
        (convert(&tiny_sd("")).and(at("a")).with("--prediction-type", "sample"), &["--prediction-type"]),
        (convert(&tiny_sd("")).and(at("a")).with("--unet-config", "x"), &["--unet-config"]),
        (convert(&tiny_sd("")).and(at("a")).with("--to", "kohya"), &["--to", "folder"]),
        (convert(&tiny_sd("")).and(at("a.safetensors")).with("--to", "folder"), &["a.safetensors", "folder"]),
        (convert(&tiny_sd("")).and(at("a")).with("--adapter-variant", "plus"), &["--adapter-variant"]),
        (convert(&adapter).and(at("a")).with("--dtype", "f8"), &["f8"]),
    ] {
        command.run().refused(2, words);
    }
    assert_empty(folder.path());
}

#[test]
fn what_would_be_lost_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // A layer in the midst of others.
    convert(&tiny_sd("ip_adapter.safetensors")).and(at("d.safetensors")).with("--to", "diffusers").run().done();
    edit_tensors(&at("d.safetensors"), |tensors| {
        tensors.retain(|tensor| !tensor.name.starts_with("down_blocks.1.attentions.0"));
    });
    convert(&at("d.safetensors"))
        .and(at("out.safetensors"))
        .run()
        .refused(1, &["down_blocks.1.attentions.0", "--unet-config"]);
    // Two outputs in one place.
    let face = convert(&fixture("faces/face_id.safetensors")).and(at("f.safetensors"));
    face.with("--lora-output", at("f.safetensors")).run().refused(2, &["--lora-output", "same file"]);
    // A model without an autoencoder, a broken configuration, and an adapter of another run.
    copy_folder(&tiny_sd(""), &at("model"));
    fs::write(at("model/unet/config.json"), "{").unwrap();
    convert(&at("model")).and(at("out")).with("--dtype", "f16").run().refused(1, &["unet/config.json"]);
    fs::remove_dir_all(at("model/vae")).unwrap();
    convert(&at("model")).and(at("out")).with("--dtype", "f16").run().refused(1, &["vae", "--allow-missing"]);
    let trained = trained();
    fs::write(at("trained_ip_adapter.safetensors"), "another").unwrap();
    convert(trained.path()).run_in(folder.path()).refused(2, &["trained_ip_adapter.safetensors", "is there already"]);
    // Methods that are no LoRA.
    write_tensors(
        &at("h.safetensors"),
        ["hada_w1_a", "hada_w1_b", "alpha"].map(|end| zeros(&format!("lora_unet_conv_in.{end}"), &[1])).into(),
    );
    convert(&at("h.safetensors")).and(at("out")).with("--to", "diffusers").run().refused(1, &["hada_w1_a", "LoHa"]);
    assert!(!at("out").exists() && !at("out.safetensors").exists() && !at("f.safetensors").exists());
}

#[test]
fn what_a_header_says_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let adapter = read_tensors(&fixture("faces/face_id.safetensors"));
    let header = serde_json::json!({"__metadata__": {"license": "own-nc", "sshs_model_hash": "0f"}});
    // As another program writes it, with texts of its own.
    let mut entries = header.as_object().unwrap().clone();
    let mut data = Vec::new();
    for tensor in &adapter {
        let offsets = [data.len(), data.len() + tensor.data.len()];
        entries.insert(
            tensor.name.clone(),
            serde_json::json!({"dtype": "F32", "shape": tensor.shape, "data_offsets": offsets}),
        );
        data.extend_from_slice(&tensor.data);
    }
    let text = serde_json::to_string(&entries).unwrap();
    let bytes = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &data].concat();
    fs::write(at("in.safetensors"), bytes).unwrap();
    convert(&at("in.safetensors"))
        .and(at("out.safetensors"))
        .with("--lora-output", at("lora.safetensors"))
        .run()
        .done();
    for name in ["out.safetensors", "lora.safetensors"] {
        let told = Ipa::new("inspect").and(at(name)).run().done().stdout;
        assert!(told.contains("licence    own-nc") && !told.contains("hash"), "{told}");
    }
}

#[test]
fn a_killed_conversion_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let large = |index: usize| zeros(&format!("weights.{index}"), &[32 << 20]);
    write_tensors(&input, (0..4).map(large).collect());
    let started = convert(&input).and(&output).with("--dtype", "f16").start();
    let begun = || entries_below(folder.path()).iter().any(|name| name.ends_with(".tmp"));
    for _ in 0..10_000 {
        if begun() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    started.signal("TERM");
    started.ended();
    assert!(!begun(), "{:?}", entries_below(folder.path()));
}

#[test]
fn digests_are_recorded_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    copy_folder(&tiny_sd(""), &model);
    let list = folder.path().join("model.sha256");
    fs::write(&list, Ipa::new("inspect").and(&model).and("--digest").run().done().stdout).unwrap();
    let verify = || Ipa::new("verify").and(&list).and(&model);
    assert!(verify().run().done().stdout.contains("files are what they were"));
    fs::write(model.join("scheduler/scheduler_config.json"), "{}").unwrap();
    fs::remove_file(model.join("vae/config.json")).unwrap();
    let refused = verify().run().refused(1, &["2 of"]);
    assert!(refused.stdout.contains("vae/config.json is missing"), "{}", refused.stdout);
    let lines = verify().and("--json").run().refused(1, &["2 of"]).json_lines();
    let differs = lines.iter().find(|line| line["verdict"] == "differs").unwrap();
    assert_eq!(differs["file"], "scheduler/scheduler_config.json");
    fs::write(&list, "nothing of the kind").unwrap();
    verify().run().refused(1, &["line 1"]);
}

/// A cache as the hub's own library leaves it, with the tiny model and its adapter in place of the published ones.
fn cache() -> TempDir {
    let cache = tempfile::tempdir().unwrap();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let repository = |name: &str| {
        let folder = cache.path().join("huggingface/hub").join(name);
        fs::create_dir_all(folder.join("refs")).unwrap();
        fs::write(folder.join("refs/main"), commit).unwrap();
        let snapshot = folder.join("snapshots").join(commit);
        fs::create_dir_all(&snapshot).unwrap();
        snapshot
    };
    copy_folder(&tiny_sd(""), &repository("models--stable-diffusion-v1-5--stable-diffusion-v1-5"));
    let adapters = repository("models--h94--IP-Adapter").join("models");
    copy_folder(&tiny_sd("image_encoder"), &adapters.join("image_encoder"));
    fs::copy(tiny_sd("ip_adapter.safetensors"), adapters.join("ip-adapter_sd15.safetensors")).unwrap();
    cache
}

#[test]
fn fetched_weights_go_by_their_names() {
    let (cache, folder) = (cache(), tempfile::tempdir().unwrap());
    let (named, path) = (folder.path().join("named.png"), folder.path().join("path.png"));
    let by_name = Ipa::generate(Path::new("sd15"), &named).with_reference().with("--adapter", "ip-adapter");
    by_name.clone().run_with_cache(cache.path()).done();
    Ipa::generate(&tiny_sd(""), &path).with_reference().run().done();
    let pixels = |file: &Path| image::open(file).unwrap().to_rgb8().into_raw();
    assert_eq!(pixels(&named), pixels(&path));
    let embeds = folder.path().join("e.safetensors");
    Ipa::embed(Path::new("ip-adapter"), &fixture("pictures/wide.png"), &embeds).run_with_cache(cache.path()).done();
    let request = folder.path().join("request.toml");
    let entry = format!(
        "[[image_prompts]]\nadapter = {{ file = \"ip-adapter\" }}\nimages = [{{ file = {:?} }}]\n",
        fixture("pictures/wide.png")
    );
    fs::write(&request, entry).unwrap();
    let command = Ipa::generate(Path::new("sd15"), &named).with("--request", &request);
    command.run_with_cache(cache.path()).done();
    let elsewhere = fs::read_to_string(&request).unwrap().replace("ip-adapter", "models/ip-adapter");
    fs::write(&request, elsewhere).unwrap();
    let mistyped = Ipa::generate(Path::new("sd15"), &named).with("--request", &request);
    mistyped.run_with_cache(cache.path()).refused(1, &["models/ip-adapter"]);
    let inspected = Ipa::new("inspect").and("ip-adapter").run_with_cache(cache.path()).done().stdout;
    assert!(inspected.contains("IP-Adapter"), "{inspected}");
    let empty = tempfile::tempdir().unwrap();
    by_name.clone().run_with_cache(empty.path()).refused(1, &["ipa fetch ip-adapter"]);
    by_name.with("--model", "sd51").run_with_cache(cache.path()).refused(1, &["sd51", "ipa fetch --list"]);
}
