//! What a run starts from.

use ipa_adapter::{AdapterFile, IpAdapter};
use ipa_core::tch::Kind;
use ipa_sample::AdapterSource;

use super::TrainError;
use super::scale::LossScale;
use crate::config::TrainConfig;
use crate::dataset::{Dataset, Split};
use crate::models::FrozenModels;
use crate::variant::{Around, num_tokens};
use crate::whole_unet::WholeUnet;
use crate::{FeatureKind, Variant};

/// Width of the identity vectors that published adapters read.
const FACE_WIDTH: i64 = 512;

/// The adapter to go on from, or a new one of the kind that the settings ask for; f32 whatever the models compute in.
pub(super) fn adapter(
    models: &FrozenModels,
    config: &TrainConfig,
    init_adapter: Option<&AdapterSource>,
) -> Result<IpAdapter, TrainError> {
    let unet = &models.unet.config;
    let options = (models.options().0, Kind::Float);
    let adapter = match init_adapter {
        Some(source) => IpAdapter::load_file(AdapterFile::open(&source.file, &source.options())?, unet, options)?,
        None => {
            let settings = &config.adapter;
            let variant = settings.variant.unwrap_or(Variant::usual_for(settings.features));
            let features = settings.features.unwrap_or(variant.usual_features());
            let image_width = |features| models.encoder().width(features);
            let around = Around { image_width: &image_width, face_width: FACE_WIDTH, unet };
            let mut sizes = variant.config(features, settings.num_tokens, &around);
            sizes.lora_rank = sizes.lora_rank.map(|usual| settings.lora_rank.unwrap_or(usual));
            let adapter = IpAdapter::new(&sizes, options);
            adapter.initialize(&models.unet.vs.variables(), config.seed);
            adapter
        }
    };
    check_kind(&adapter, config)?;
    if let Some(features) = adapter.image_features() {
        adapter.check_width(models.encoder().width(features))?;
    }
    Ok(adapter)
}

/// A copy of the UNet to learn, if the settings ask for one.
pub(super) fn whole_unet(
    models: &FrozenModels,
    adapter: &IpAdapter,
    config: &TrainConfig,
) -> Result<Option<WholeUnet>, TrainError> {
    let allowed = match (adapter.lora().is_some(), models.options().1) {
        _ if !config.adapter.train_unet => return Ok(None),
        (false, Kind::Float) => return Ok(Some(WholeUnet::new(&models.unet))),
        (true, _) => "not with an adapter that brings changes to the UNet of its own",
        (false, _) => "choose `--dtype f32`: what learns is f32",
    };
    Err(TrainError::Field { field: "train_unet", value: true.to_string(), allowed })
}

/// Whether an adapter is what the settings ask for, as far as they ask.
fn check_kind(adapter: &IpAdapter, config: &TrainConfig) -> Result<(), TrainError> {
    let (asked, projection) = (&config.adapter, &adapter.config().projection);
    let differs = [
        ("variant", asked.variant.is_some_and(|variant| !variant.is_of(adapter))),
        ("features", asked.features.is_some_and(|features| FeatureKind::of(projection) != features)),
        ("num_tokens", asked.num_tokens.is_some_and(|num| num_tokens(projection) != Some(num))),
        ("lora_rank", asked.lora_rank.is_some() && adapter.config().lora_rank != asked.lora_rank),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        Some((field, _)) => Err(TrainError::OtherKind { field }),
        None => Ok(()),
    }
}

/// The rows to learn from and those held out.
pub(super) fn split(dataset: &Dataset, config: &TrainConfig) -> Result<Split, TrainError> {
    let split = dataset.split(config.validation.held_out);
    match split.train.is_empty() {
        true => Err(TrainError::NoRows { path: dataset.path().into(), num: dataset.len() }),
        false => Ok(split),
    }
}

/// Gradients of f16 vanish without it.
pub(super) fn loss_scale(models: &FrozenModels) -> Option<LossScale> {
    (models.options().1 == Kind::Half).then(LossScale::new)
}
