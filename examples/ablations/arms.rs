//! What is compared: every arm differs from the default in one thing.

use ipa::TrainConfig;
use ipa::train::{FeatureKind, Variant};

/// What all others are compared with.
pub(crate) const DEFAULT: &str = "decoupled";

/// Arms that differ in one thing only from one that is not the default: the first, and what it is compared with.
pub(crate) const PAIRS: [(&str, &str); 3] = [("plus", "tokens-16"), ("unet", "simple"), ("unet-3e-4", "unet")];

const FINE_TUNED: &str = "an adapter is as good as a fine-tuned model, or better";

/// One way to make pictures.
#[derive(Debug)]
pub(crate) struct Arm {
    pub(crate) name: &'static str,
    /// How it differs from the default.
    pub(crate) what: &'static str,
    pub(crate) how: How,
    /// What the paper leads one to expect of it.
    pub(crate) paper: Option<Expectation>,
}

/// How an arm comes about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum How {
    /// K' and V' begin as copies of the UNet's own, if the arm has any.
    Trained(fn(&mut TrainConfig)),
    /// K' and V' begin at random, everything else as in the default.
    FromRandomKeys,
    /// Text draws the pictures.
    TextOnly,
}

impl Arm {
    /// What its settings do not tell.
    pub(crate) fn kind(&self) -> &'static str {
        match self.how {
            How::Trained(_) => "trained",
            How::FromRandomKeys => "trained from random keys and values",
            How::TextOnly => "text only",
        }
    }
}

/// What the paper (arXiv:2308.06721) says or shows, as a direction of CLIP-I against another arm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expectation {
    pub(crate) says: &'static str,
    pub(crate) against: &'static str,
    pub(crate) direction: Direction,
}

/// Of CLIP-I, reference alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Higher,
    Lower,
    NotHigher,
}

/// All arms, in the order of the tables.
pub(crate) fn all() -> Vec<Arm> {
    let trained = |name, what, change: fn(&mut TrainConfig)| Arm { name, what, how: How::Trained(change), paper: None };
    let expecting =
        |arm: Arm, says, against, direction| Arm { paper: Some(Expectation { says, against, direction }), ..arm };
    let simple = trained("simple", "tokens beside the text's in the UNet's own attention", |config| {
        config.adapter.variant = Some(Variant::Simple);
    });
    let plus = trained("plus", "16 tokens of fine-grained features, by a resampler", |config| {
        config.adapter.variant = Some(Variant::Plus);
    });
    let unet = trained("unet", "`simple`, and all of the UNet's weights trained", |config| {
        config.adapter.variant = Some(Variant::Simple);
        config.adapter.train_unet = true;
    });
    let gentle = trained("unet-3e-4", "`unet`, at a learning rate of 3e-4", |config| {
        config.adapter.variant = Some(Variant::Simple);
        config.adapter.train_unet = true;
        config.optimizer.learning_rate = 3e-4;
    });
    let random = Arm { name: "random-kv", what: "K' and V' begin at random", how: How::FromRandomKeys, paper: None };
    vec![
        trained(
            DEFAULT,
            "the default: attention of their own for 4 tokens of the global embedding; image, text and both left out in 5, 45 \
             and 5 of 100 rows",
            |_| {},
        ),
        expecting(simple, "decoupled attention follows the image better", DEFAULT, Direction::Lower),
        trained("prefusion", "tokens look at the text before they get attention of their own", |config| {
            config.adapter.variant = Some(Variant::Prefusion);
            config.adapter.features = Some(FeatureKind::Global);
        }),
        expecting(plus, "fine-grained features keep more of the image", DEFAULT, Direction::Higher),
        trained("tokens-1", "one token", |config| config.adapter.num_tokens = Some(1)),
        trained("tokens-16", "16 tokens of the global embedding", |config| config.adapter.num_tokens = Some(16)),
        expecting(random, "copies speed the training up", DEFAULT, Direction::Lower),
        trained("drops-5", "image, text and both left out in 5 of 100 rows each, as in the paper", |config| {
            config.data.text_drop = 0.05;
        }),
        trained("no-drops", "nothing is left out in training", |config| {
            (config.data.image_drop, config.data.text_drop, config.data.both_drop) = (0.0, 0.0, 0.0);
        }),
        expecting(unet, FINE_TUNED, DEFAULT, Direction::NotHigher),
        expecting(gentle, FINE_TUNED, DEFAULT, Direction::NotHigher),
        Arm { name: "text-only", what: "no adapter, no image", how: How::TextOnly, paper: None },
    ]
}
