//! What works with nothing at hand: the pocket model, the demo on it, what the program tells of itself.
#![allow(clippy::unwrap_used)]

mod support;

use support::Ipa;

/// The shells' scripts come from clap; that ours takes part is seen in a name.
#[test]
fn completions_know_commands_and_the_names_of_devices() {
    let script = Ipa::new("completions").and("bash").run().done().stdout;
    for words in ["generate", "--image-encoder", "auto cpu cuda mps", "auto f32 f16 bf16"] {
        assert!(script.contains(words), "nothing of `{words}`");
    }
}

#[test]
fn the_doctor_tells_of_the_cpu_and_of_libtorch() {
    let lines = Ipa::new("doctor").and("--json").run().done().json_lines();
    let [told] = lines.as_slice() else { panic!("{lines:#?}") };
    assert_eq!(told["devices"][0]["device"], "cpu");
    assert_eq!(told["devices"][0]["auto_dtype"], "f32");
    assert!(told["devices"][0]["threads"].as_u64().unwrap() > 0);
    assert_eq!(told["libtorch"]["built_for"], "2.11.0");
    assert_eq!(told["pocket_model"], cfg!(feature = "pocket"));
    let text = Ipa::new("doctor").run().done().stdout;
    assert!(text.contains("libtorch") && text.contains("cpu"), "{text}");
}

#[cfg(feature = "pocket")]
mod with_the_model {
    use std::fs;
    use std::path::Path;

    use serde_json::json;

    use super::support::Ipa;
    use super::support::files::{entries_below, read_json, read_tensors, request_of};

    /// A command on the CPU.
    fn on_pocket(command: &str) -> Ipa {
        Ipa::on(command, Path::new("pocket"))
    }

    #[test]
    fn the_bundled_model_has_at_most_24_megabytes() {
        let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/pocket");
        let files = entries_below(&assets).into_iter().map(|name| assets.join(name)).filter(|path| path.is_file());
        let bytes: u64 = files.map(|path| fs::metadata(path).unwrap().len()).sum();
        assert!((10_000_000..=24_000_000).contains(&bytes), "{bytes} bytes");
    }

    #[test]
    fn the_bundled_model_draws_from_text_and_from_an_image() {
        let (cache, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [red, star] = ["red.png", "star.png"].map(|name| folder.path().join(name));
        let draw = || on_pocket("generate").with("--steps", "1").with("--prompt", "a red circle");
        draw().with("--output", &red).run_with_cache(cache.path()).done();
        draw().with("--image", &red).with("--output", &star).run_with_cache(cache.path()).done();
        for file in [&red, &star] {
            let picture = image::open(file).unwrap();
            assert_eq!((picture.width(), picture.height()), (64, 64));
        }
        assert_ne!(fs::read(&red).unwrap(), fs::read(&star).unwrap());
    }

    #[test]
    fn inspecting_the_bundled_model_finds_its_adapter() {
        let cache = tempfile::tempdir().unwrap();
        let command = Ipa::new("inspect").and("pocket");
        let lines = command.clone().and("--json").run_with_cache(cache.path()).done().json_lines();
        assert_eq!([&lines[0]["found"], &lines[0]["class"]], [&json!("model"), &json!("StableDiffusionPipeline")]);
        assert_eq!(lines[0]["adapter"]["content"]["adapter"]["kind"], "classic");
        let text = command.run_with_cache(cache.path()).done().stdout;
        assert!(text.contains("ip_adapter.safetensors: IP-Adapter"), "{text}");
    }

    #[test]
    fn a_demo_leaves_adapter_pictures_and_reports() {
        for subject in ["pip", "fin"] {
            check_demo(subject);
        }
    }

    fn check_demo(subject: &str) {
        let (cache, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let earlier = output.path().join("training/checkpoint-300");
        fs::create_dir_all(&earlier).unwrap();
        let command = Ipa::new("demo").with("--device", "cpu").with("--dtype", "f32").and("--short");
        let command = command.with("--subject", subject);
        let ended = command.with("--output", output.path()).run_with_cache(cache.path()).done();
        assert!(ended.stdout.contains("CLIP-I: ") && ended.stdout.contains("report.html"), "{ended:#?}");

        let entries = entries_below(output.path());
        let trained = (1..=5).map(|number| format!("pictures/{subject}-{number}.png"));
        let drawn = ["scale-0", "before-scale-0.5", "before-scale-1", "after-scale-0.5", "after-scale-1"];
        let drawn = drawn.map(|column| format!("pictures/held-out-1-{column}.png"));
        let others = ["ip_adapter.safetensors", "pictures/data.json", "pictures/held-out-1.png", "report.html"];
        let others = others.map(str::to_owned).into_iter().chain(["training/checkpoint-5".to_owned()]);
        for file in trained.chain(drawn).chain(others) {
            assert!(entries.contains(&file), "no {file} in {entries:#?}");
        }
        assert!(!earlier.exists());
        assert!(read_tensors(&output.path().join("ip_adapter.safetensors")).len() > 1);

        let pictures = output.path().join("pictures");
        let request = request_of(&pictures.join("held-out-1-after-scale-0.5.png")).unwrap();
        assert_eq!([&request["scale"], &request["images"]], [&json!(0.5), &json!([pictures.join("held-out-1.png")])]);
        assert_eq!(request_of(&pictures.join("held-out-1.png")), None);

        let report = read_json(&output.path().join("report.json"));
        let keys = [
            "adapter",
            "checks",
            "comparison",
            "losses",
            "machine",
            "mapping",
            "runs",
            "seconds",
            "settings",
            "subject",
        ];
        assert!(report.as_object().unwrap().keys().eq(keys), "{report:#}");
        assert_eq!(report["subject"], subject);
        assert_eq!([report["losses"].as_array().unwrap().len(), report["checks"].as_array().unwrap().len()], [5, 3]);
        let measures = ["clip_i", "subject_color"].map(|name| &report["comparison"][name]["per_reference"]);
        assert_eq!(measures.map(|values| values.as_array().unwrap().len()), [3, 3]);
        assert!(report["seconds"]["total"].as_f64().unwrap() > 0.0);
    }

    #[test]
    fn a_demo_refuses_a_seed_it_cannot_count_from_before_it_begins() {
        let (cache, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let command = Ipa::new("demo").with("--seed", "9223372036854775807").with("--output", output.path());
        command.run_with_cache(cache.path()).refused(2, &["--seed"]);
        assert!(entries_below(output.path()).is_empty());
        assert!(entries_below(cache.path()).is_empty());
    }
}
