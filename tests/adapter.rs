//! The classic adapter against diffusers' IP-Adapter, and the laws it keeps.
//! Reference values: tests/fixtures/models.py
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};

use ipa_adapter::{AdapterConfig, AdapterError, ImagePrompt, IpAdapter};
use ipa_core::tch::{Kind, Tensor};
use ipa_core::{WeightsError, save_tensors};
use ipa_unet::{CrossAttentionHook, NoHook, SiteId, Unet, UnetConfig};
use support::{F32, Fixture, TOLERANCE, assert_close, relative_error, tiny_sd};
use tempfile::TempDir;

const NUM_SITES: usize = 16;

/// Everything a test needs: the tiny UNet, its adapter, inputs and expected outputs.
struct Tiny {
    unet: Unet,
    adapter: IpAdapter,
    fixture: Fixture,
}

impl Tiny {
    fn load() -> Self {
        let unet = Unet::load(&tiny_sd("unet"), F32).unwrap();
        let adapter = load(&tiny_sd("ip_adapter.safetensors"), unet.config()).unwrap();
        Self { unet, adapter, fixture: Fixture::open("models/adapter") }
    }

    fn image_embeds(&self) -> &Tensor {
        &self.fixture["image_embeds"]
    }

    fn prompt(&self, scale: f64) -> ImagePrompt {
        self.adapter.prompt(self.image_embeds(), scale).unwrap()
    }

    fn noise_pred(&self, hook: &dyn CrossAttentionHook) -> Tensor {
        let (sample, timestep) = (&self.fixture["sample"], &self.fixture["timestep"]);
        self.unet.forward(sample, timestep, &self.fixture["encoder_hidden_states"], hook)
    }
}

fn load(path: &Path, unet: &UnetConfig) -> Result<IpAdapter, AdapterError> {
    IpAdapter::load(path, unet, F32)
}

/// A file of the tiny adapter's tensors after `change`.
fn changed(change: impl Fn((String, Tensor)) -> Option<(String, Tensor)>) -> (TempDir, PathBuf) {
    let tensors = Fixture::read(&tiny_sd("ip_adapter.safetensors")).into_iter().filter_map(change);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.safetensors");
    save_tensors(&path, tensors, None).unwrap();
    (folder, path)
}

#[test]
fn image_tokens_match() {
    let tiny = Tiny::load();
    assert_close(&tiny.adapter.ip_tokens(tiny.image_embeds()).unwrap(), &tiny.fixture["ip_tokens"], TOLERANCE);
}

#[test]
fn unconditional_tokens_are_those_of_zero_embeddings() {
    let tiny = Tiny::load();
    let tokens = tiny.adapter.ip_tokens(&tiny.image_embeds().zeros_like()).unwrap();
    assert_close(&tokens, &tiny.fixture["uncond_ip_tokens"], TOLERANCE);
}

#[test]
fn several_images_become_the_tokens_of_each_in_order() {
    let tiny = Tiny::load();
    let tokens = tiny.adapter.ip_tokens(&tiny.image_embeds().unsqueeze(0)).unwrap();
    assert_close(&tokens, &tiny.fixture["ip_tokens"].reshape([1, 8, -1]), TOLERANCE);
}

#[test]
fn the_image_branch_of_every_site_matches() {
    let tiny = Tiny::load();
    let prompt = tiny.prompt(1.0);
    assert_eq!(tiny.unet.config().sites().len(), NUM_SITES);
    for site in 0..NUM_SITES {
        let attended = prompt.attend(SiteId(site), &tiny.fixture[&format!("site.{site}.query")]).unwrap();
        let error = relative_error(&attended, &tiny.fixture[&format!("site.{site}.ip_attention")]);
        assert!(error <= TOLERANCE, "site {site}: {error:.2e}");
    }
}

#[test]
fn the_noise_prediction_matches_at_every_scale() {
    let tiny = Tiny::load();
    for (scale, name) in [(0.0, "scale_0"), (0.7, "scale_0.7"), (1.0, "scale_1")] {
        let error = relative_error(&tiny.noise_pred(&tiny.prompt(scale)), &tiny.fixture[&format!("{name}.output")]);
        assert!(error <= TOLERANCE, "{name}: {error:.2e}");
    }
}

#[test]
fn scale_0_is_the_plain_unet_bit_for_bit() {
    let tiny = Tiny::load();
    assert!(tiny.noise_pred(&tiny.prompt(0.0)).equal(&tiny.noise_pred(&NoHook)));
}

#[test]
fn a_prompt_at_another_scale_is_the_prompt_of_that_scale() {
    let tiny = Tiny::load();
    let rescaled = tiny.prompt(0.0).with_scale(0.7);
    assert!(tiny.noise_pred(&rescaled).equal(&tiny.noise_pred(&tiny.prompt(0.7))));
}

#[test]
fn a_guided_prompt_is_the_unconditional_one_before_the_conditional_one() {
    let tiny = Tiny::load();
    let query = &tiny.fixture["site.0.query"];
    let attend = |prompt: ImagePrompt, query: &Tensor| prompt.attend(SiteId(0), query).unwrap();
    let unconditional = attend(tiny.adapter.prompt(&tiny.image_embeds().zeros_like(), 0.7).unwrap(), query);
    let conditional = attend(tiny.prompt(0.7), query);
    let doubled = Tensor::cat(&[query, query], 0);
    let guided = attend(
        tiny.adapter.guided_prompt(tiny.image_embeds(), &tiny.image_embeds().zeros_like(), 0.7).unwrap(),
        &doubled,
    );
    assert_close(&guided, &Tensor::cat(&[unconditional, conditional], 0), TOLERANCE);
}

/// With K' = K and V' = V, image tokens that are also the text context add what is there already. The UNet that
/// attends twice as strongly is the one whose V is doubled.
#[test]
fn a_fresh_adapter_fed_the_context_itself_doubles_every_cross_attention() {
    let fixture = Fixture::open("models/adapter");
    let unet = Unet::load_with_variables(&tiny_sd("unet"), F32).unwrap();
    let adapter = IpAdapter::new(&AdapterConfig::classic(24, &unet.config), F32);
    adapter.initialize(&unet.vs.variables(), 1);
    let context = adapter.ip_tokens(&fixture["image_embeds"]).unwrap();
    let prompt = adapter.prompt(&fixture["image_embeds"], 1.0).unwrap();
    let noise_pred =
        |hook: &dyn CrossAttentionHook| unet.model.forward(&fixture["sample"], &fixture["timestep"], &context, hook);

    let prompted = noise_pred(&prompt);
    for site in &unet.config.sites() {
        let mut to_v = unet.vs.variables().remove(&format!("{}.to_v.weight", site.name)).unwrap();
        let _ = to_v.g_mul_scalar_(2.0);
    }
    assert_close(&prompted, &noise_pred(&NoHook), TOLERANCE);
}

#[test]
fn initialisation_depends_on_the_seed_in_the_projection_alone() {
    let unet = Unet::load_with_variables(&tiny_sd("unet"), F32).unwrap();
    let initialized = |seed| {
        let adapter = IpAdapter::new(&AdapterConfig::classic(24, &unet.config), F32);
        adapter.initialize(&unet.vs.variables(), seed);
        adapter.variables()
    };
    let (first, again, other) = (initialized(1), initialized(1), initialized(2));
    for (name, tensor) in &first {
        assert!(tensor.equal(&again[name]), "{name}");
        assert_eq!(tensor.equal(&other[name]), !name.starts_with("image_proj.proj."), "{name}");
    }
}

#[test]
fn saved_and_loaded_it_gives_the_same_prompt() {
    let tiny = Tiny::load();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved.safetensors");
    tiny.adapter.save(&path, Kind::Float, None).unwrap();
    let loaded = load(&path, tiny.unet.config()).unwrap();

    assert_eq!(loaded.config(), tiny.adapter.config());
    let tokens = |adapter: &IpAdapter| adapter.ip_tokens(tiny.image_embeds()).unwrap();
    assert!(tokens(&loaded).equal(&tokens(&tiny.adapter)));
    let prompt = loaded.prompt(tiny.image_embeds(), 1.0).unwrap();
    assert!(tiny.noise_pred(&prompt).equal(&tiny.noise_pred(&tiny.prompt(1.0))));
}

#[test]
fn a_saved_file_has_the_published_names_and_values() {
    let tiny = Tiny::load();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved.safetensors");
    tiny.adapter.save(&path, Kind::Float, None).unwrap();
    let (published, saved) = (Fixture::read(&tiny_sd("ip_adapter.safetensors")), Fixture::read(&path));
    assert!(saved.names().eq(published.names()));
    for name in published.names() {
        assert!(saved[name].equal(&published[name]), "{name}");
    }
}

#[test]
fn files_that_say_adapter_modules_are_read_too() {
    let tiny = Tiny::load();
    let (_folder, path) = changed(|(name, tensor)| Some((name.replace("ip_adapter.", "adapter_modules."), tensor)));
    let adapter = load(&path, tiny.unet.config()).unwrap();
    let prompt = adapter.prompt(tiny.image_embeds(), 1.0).unwrap();
    assert!(tiny.noise_pred(&prompt).equal(&tiny.noise_pred(&tiny.prompt(1.0))));
}

#[test]
fn an_adapter_for_other_text_features_is_refused_with_both_widths() {
    let error = load(&tiny_sd("ip_adapter.safetensors"), &UnetConfig::sd15()).unwrap_err();
    let expected = "is for a model with 16 cross-attention layers reading tokens of width 32; this one has 16 \
                    cross-attention layers reading tokens of width 768: use an adapter made for Stable Diffusion 1.5, such \
                    as ip-adapter_sd15.safetensors";
    assert!(matches!(error, AdapterError::Base { .. }), "{error:?}");
    assert!(error.to_string().ends_with(expected), "{error}");
}

#[test]
fn an_adapter_for_a_deeper_model_is_refused_with_both_depths() {
    let mut config = Tiny::load().unet.config().clone();
    config.down_block_types[2] = "DownBlock2D".to_owned();
    let error = load(&tiny_sd("ip_adapter.safetensors"), &config).unwrap_err();
    assert!(matches!(error, AdapterError::Base { .. }), "{error:?}");
    assert!(error.to_string().contains("with 16 cross-attention layers"), "{error}");
    assert!(error.to_string().contains("this one has 14 cross-attention layers"), "{error}");
}

#[test]
fn an_adapter_for_layers_of_other_widths_is_refused_by_tensor() {
    let mut config = Tiny::load().unet.config().clone();
    config.block_out_channels[3] = 40; // that of the mid block, whose published number is the last
    let error = load(&tiny_sd("ip_adapter.safetensors"), &config).unwrap_err();
    assert!(matches!(error, AdapterError::Weights(WeightsError::Shape { .. })), "{error:?}");
    let expected = "`ip_adapter.31.to_k_ip.weight` is [32, 32] in the file, [40, 32] in the model";
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn embeddings_of_another_encoder_are_refused_with_both_widths() {
    let error = Tiny::load().adapter.prompt(&Tensor::zeros([1, 1024], (F32.1, F32.0)), 1.0).unwrap_err();
    let expected = "the image encoder gives embeddings of width 1024, the adapter was trained with 24: ";
    assert!(error.to_string().starts_with(expected), "{error}");
}

#[test]
fn weights_that_are_no_adapter_are_refused_by_path() {
    let path = tiny_sd("unet/diffusion_pytorch_model.safetensors");
    let error = load(&path, Tiny::load().unet.config()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{} is not an IP-Adapter: name a file such as ip-adapter_sd15.safetensors", path.display())
    );
}

#[test]
fn an_adapter_without_one_of_its_layers_is_refused_with_the_missing_tensor() {
    let (_folder, path) = changed(|(name, tensor)| (name != "ip_adapter.9.to_v_ip.weight").then_some((name, tensor)));
    let error = load(&path, Tiny::load().unet.config()).unwrap_err();
    let told = anyhow::Error::from(error).chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    assert!(told.contains("`ip_adapter.9.to_v_ip.weight` is missing"), "{told}");
}
