//! A protocol run: pictures after every image of a captioned set.

use anyhow::{Result, bail};
use ipa_clip::load_image;
use ipa_formats::{sha256_file, sha256_text};
use ipa_metrics::evaluation::{MeasurementLog, MethodKind, PictureId, ProtocolSize, Set, Skipped};
use ipa_metrics::protocol::{ImageSet, Protocol, ProtocolImage, Shard, sample_seed};

use super::calibration::Calibrated;
use super::cases::Case;
use super::measure::{Drawer, GO_ON, Measuring};
use super::plan::Drawing;
use super::settings::{Stated, choice, short_name, shortened};
use super::subject::Subject;
use super::{Begun, listed, methods};
use crate::{interrupt, progress, scores};

/// Draws and measures what is not there yet of a shard.
///
/// # Errors
/// If something other than an image cannot be read, or something cannot be drawn or written.
pub(super) fn run(begun: &Begun) -> Result<MeasurementLog> {
    let args = begun.args;
    let data = args.data.as_deref().unwrap_or(".".as_ref());
    let set = ImageSet::open(data, args.limit().unwrap_or(usize::MAX))?;
    if let (true, Some(Skipped { file, reason, .. })) = (set.images.is_empty(), set.skipped.first()) {
        bail!("{} has no image that can be used: {file}: {reason}", data.display());
    }
    let clip = scores::clip_model(args.metric_model.as_deref(), &begun.source, begun.options.0)?;
    let adapters = begun.adapters.iter().map(|adapter| methods::method(&adapter.name, &adapter.source));
    let stated = Stated {
        model: (&begun.model, &begun.source),
        request: &begun.request,
        metric_model: args.metric_model.as_deref(),
        calibrated: Calibrated { calibration: None, origin: "none in a protocol run".to_owned() },
        methods: adapters.chain([Ok(methods::baseline(MethodKind::ReferenceItself))]).collect::<Result<_>>()?,
        kind: begun.options.1,
        protocol: Some(ProtocolSize { num_images: set.images.len() + set.skipped.len(), num_samples: args.seeds }),
    };
    let mut choices = Protocol::choices();
    choices.push(choice("Images", images(&set)));
    choices.push(choice("Model files", begun.model_digest()?));
    let settings =
        stated.settings(format!("{} by the protocol of arXiv:2308.06721", begun.names()), Vec::new(), choices)?;

    let mut log = begun.log(settings)?;
    set.skipped.iter().try_for_each(|skipped| log.skip(skipped.clone()))?;
    let mut measuring = Measuring::new(begun.folder, begun.request.clone(), clip, log)?;
    let shard = args.shard.unwrap_or(Shard::WHOLE);
    let num = shard.of(&set.images).count() * begun.adapters.len() * args.seeds as usize * args.steps;
    measuring.bar = progress::bar(num as u64, "drawing", args.json);
    for adapter in &begun.adapters {
        measuring.bar.set_message(adapter.name.clone());
        let mut drawer = None;
        for image in shard.of(&set.images) {
            interrupt::stop_if_requested(GO_ON);
            draw(begun, &mut measuring, (&adapter.name, &mut drawer), image)?;
        }
    }
    measuring.bar.finish_and_clear();
    Ok(measuring.log)
}

/// Draws the missing samples of an image; one that cannot be read is skipped.
fn draw(
    begun: &Begun,
    measuring: &mut Measuring,
    (name, drawer): (&str, &mut Option<Drawer>),
    image: &ProtocolImage,
) -> Result<()> {
    let (samples, steps) = (begun.args.seeds, begun.args.steps as u64);
    let is_done = |measuring: &Measuring| {
        let (set, case, prompt_index) = (Set::Protocol, image.id.as_str(), 0);
        let id = |method, scale, seed| PictureId { set, case, method, prompt_index, scale, seed };
        let is_drawn = |sample| measuring.is_measured(&id(name, begun.request.scale, sample_seed(&image.id, sample)));
        (0..samples).all(is_drawn) && measuring.is_measured(&id(methods::REFERENCE_ITSELF, 0.0, 0))
    };
    if is_done(measuring) {
        measuring.bar.inc(u64::from(samples) * steps);
        return Ok(());
    }
    let reference = match load_image(&image.file) {
        Ok(reference) => reference,
        Err(error) => {
            let file = short_name(&image.file.display().to_string());
            let reason = listed::reason(&error.into());
            measuring.log.skip(Skipped { set: Set::Protocol, case: image.id.clone(), file, reason })?;
            measuring.bar.inc(u64::from(samples) * steps);
            return Ok(());
        }
    };
    let case = Case { name: image.id.clone(), reference, prompt: String::new(), scene: None };
    let subject = [Subject::new(Set::Protocol, case, &image.captions, (begun.folder, &measuring.clip))?];
    measuring.hand_back(&subject[0])?;
    for sample in 0..samples {
        let drawing = Drawing {
            prompt: Protocol::paper().prompt,
            scale: begun.request.scale,
            seed: sample_seed(&image.id, sample),
            file: subject[0].picture_file(name, &sample.to_string()),
            reference: Some(0),
            rows: vec![(0, 0)],
        };
        if measuring.is_done(name, &drawing, &subject) {
            measuring.bar.inc(steps);
            continue;
        }
        let adapter = begun.adapters.iter().find(|adapter| adapter.name == name);
        let drawer = match drawer {
            Some(drawer) => drawer,
            None => drawer.insert(begun.drawer(adapter)?),
        };
        measuring.draw(name, drawer, &drawing, &subject)?;
    }
    Ok(())
}

/// How many images, and a digest of their names, captions and bytes: the same wherever they lie. What cannot be read is
/// skipped later.
fn images(set: &ImageSet) -> String {
    let line = |image: &ProtocolImage| {
        let digest = sha256_file(&image.file).unwrap_or_default();
        format!("{}\n{}\n{digest}\n", image.id, image.captions.join("\n"))
    };
    let lines: String = set.images.iter().map(line).collect();
    format!("{}, {}", set.images.len(), shortened(&sha256_text(&lines)))
}
