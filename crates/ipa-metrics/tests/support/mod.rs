//! Made-up evaluations with drawn pictures: numbers that look like real ones, and stand for nothing.

use std::collections::BTreeMap;

use ipa_metrics::Calibration;
use ipa_metrics::evaluation::{
    Choice, DEFAULT_SCALES, Embedding, Method, MethodKind, NearestTraining, ProtocolSize, ReportPictures, Row, Set,
    Settings, Skipped,
};
use ipa_metrics::protocol::{Protocol, sample_seed};
use ipa_pocket::{Scene, Split};

const SIDE: u32 = 64;
const SEEDS: [u64; 3] = [0, 1, 2];
const PROMPTS: [[&str; 2]; 3] = [
    ["a star on a gray background", "a large ring on a blue background"],
    ["a heart at the left", "a heart, sketch style"],
    ["a small square, flat style", "two circles"],
];

/// Everything an evaluation is made of.
pub(crate) struct MadeUp {
    pub(crate) settings: Settings,
    pub(crate) rows: Vec<Row>,
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) pictures: ReportPictures,
}

/// Two adapters and both baselines: tests under seeds, prompts and strengths, held-out references.
pub(crate) fn evaluation() -> MadeUp {
    let mut made_up = MadeUp::new(Settings {
        title: "Mascot adapter".to_owned(),
        model: "pocket".to_owned(),
        metric_model: "pocket/clip".to_owned(),
        methods: vec![
            method("mascot", MethodKind::Adapter, Some(399_360)),
            method("base adapter", MethodKind::Adapter, Some(399_360)),
            method("text only", MethodKind::TextOnly, None),
            method("reference itself", MethodKind::ReferenceItself, None),
        ],
        scale: 0.5,
        scales: DEFAULT_SCALES.to_vec(),
        sampler: "ddim".to_owned(),
        num_steps: 50,
        guidance_scale: 7.5,
        size: [SIDE, SIDE],
        protocol: None,
        calibration: Some(Calibration { shuffled: 0.11, real: 0.93 }),
        choices: vec![
            Choice { question: "Test cases".to_owned(), answer: "three held-out scenes of the drawn world".to_owned() },
            Choice { question: "Negative prompt".to_owned(), answer: "empty".to_owned() },
        ],
    });
    for (index, prompts) in PROMPTS.iter().enumerate() {
        let case = format!("test {}", index + 1);
        for method in ["mascot", "base adapter"] {
            for (prompt_index, prompt) in prompts.iter().enumerate() {
                SEEDS
                    .iter()
                    .for_each(|seed| made_up.draw(Set::Tests, &case, method, (prompt_index, prompt), *seed, 0.5));
            }
            [1.0, 1.5, 2.0]
                .iter()
                .for_each(|scale| made_up.draw(Set::Tests, &case, method, (0, prompts[0]), 0, *scale));
        }
        SEEDS.iter().for_each(|seed| made_up.draw(Set::Tests, &case, "text only", (0, prompts[0]), *seed, 0.0));
        made_up.draw(Set::Tests, &case, "reference itself", (0, prompts[0]), 0, 0.0);
    }
    for index in 0..5 {
        for method in ["mascot", "base adapter", "text only"] {
            let scale = if method == "text only" { 0.0 } else { 0.5 };
            made_up.draw(Set::HeldOut, &format!("held-out {}", index + 1), method, (0, "a pip on grass"), 0, scale);
        }
    }
    made_up.skip(Set::HeldOut, "held-out 6", "the file is cut off in the middle; copy it again");
    made_up.skip(Set::HeldOut, "held-out 10", "it is not there; names are relative to the folder of images");
    made_up
}

/// A protocol run over a few images, without prompts.
#[allow(dead_code)] // not every test runs one
pub(crate) fn protocol() -> MadeUp {
    let paper = Protocol::paper();
    let mut made_up = MadeUp::new(Settings {
        title: "Protocol run".to_owned(),
        model: "stable-diffusion-v1-5".to_owned(),
        metric_model: "openai/clip-vit-large-patch14".to_owned(),
        methods: vec![method("ip-adapter_sd15", MethodKind::Adapter, Some(22_323_000))],
        scale: paper.scale,
        scales: Vec::new(),
        sampler: paper.sampler,
        num_steps: paper.num_steps,
        guidance_scale: paper.guidance_scale,
        size: paper.size,
        protocol: Some(ProtocolSize { num_images: 9, num_samples: paper.num_samples }),
        calibration: None,
        choices: Protocol::choices(),
    });
    for id in ["139", "285", "632", "724", "776", "785", "802", "872"] {
        for sample in 0..paper.num_samples {
            made_up.draw(Set::Protocol, id, "ip-adapter_sd15", (0, ""), sample_seed(id, sample), paper.scale);
        }
    }
    made_up.skip(Set::Protocol, "885", "it is not there; names are relative to the folder of images");
    made_up
}

impl MadeUp {
    fn new(settings: Settings) -> Self {
        Self { settings, rows: Vec::new(), skipped: Vec::new(), pictures: ReportPictures::new() }
    }

    fn draw(
        &mut self,
        set: Set,
        case: &str,
        method: &str,
        (prompt_index, prompt): (usize, &str),
        seed: u64,
        scale: f64,
    ) {
        let slug = |text: &str| text.replace(' ', "-");
        let reference = format!("references/{}.png", slug(case));
        let file = format!("pictures/{}-{}-{prompt_index}-{seed}-{scale}.png", slug(case), slug(method));
        let file = if method == "reference itself" { reference.clone() } else { file };
        let (likeness, following) = match method {
            "mascot" => (0.55 + 0.32 * (1.0 - (-1.6 * scale).exp()), 0.31 - 0.05 * scale),
            "base adapter" => (0.47 + 0.30 * (1.0 - (-1.6 * scale).exp()), 0.30 - 0.06 * scale),
            "text only" => (0.42, 0.33),
            "reference itself" => (1.0, 0.21),
            _ => (0.80, 0.23),
        };
        let noise =
            |what: &str, size: f64| size * noise(&format!("{what} {case} {method} {prompt_index} {seed} {scale}"));
        let image_cosine = if method == "reference itself" { 1.0 } else { likeness + noise("image", 0.06) };
        let text_cosine = following + noise("text", 0.03);
        let is_protocol = set == Set::Protocol;
        let judged = ["color", "shape"].map(|what| (what.to_owned(), noise(what, 1.0) < 2.0 * likeness - 0.8));
        let base = |index: usize| noise_of(&format!("{case} {method} {prompt_index}"), index);
        let embedding = (0..8).map(|index| (base(index) + 0.4 * noise(&format!("e{index}"), 1.0)) as f32).collect();
        let scene = |of: &str| Scene::draw_at(0, (1e6 * (1.0 + self::noise(of))) as u64, Split::HeldOut);
        let picture = |of: &str| ipa_metrics::encode_png(&ipa_pocket::render(&scene(of), SIDE));
        self.pictures.insert(reference.clone(), picture(case));
        if method != "reference itself" {
            let alike = noise("scene", 1.0) < 3.0 * (likeness - 0.55);
            self.pictures.insert(file.clone(), picture(if alike { case } else { &file }));
        }
        self.pictures.insert("training/pip-2.png", picture("pip"));
        self.rows.push(Row {
            set,
            case: case.to_owned(),
            method: method.to_owned(),
            prompt_index,
            prompt: prompt.to_owned(),
            reference,
            seed,
            scale,
            file,
            image_cosine,
            text_cosine: (!is_protocol).then_some(text_cosine),
            caption_cosines: if is_protocol {
                vec![text_cosine, text_cosine - 0.01, text_cosine + 0.005]
            } else {
                Vec::new()
            },
            captions: Vec::new(),
            nearest_training: (!is_protocol && method != "text only")
                .then(|| NearestTraining { file: "training/pip-2.png".to_owned(), cosine: 0.82 + noise("near", 0.15) }),
            judged: if is_protocol { BTreeMap::new() } else { judged.into() },
            embedding: (!is_protocol).then(|| Embedding::new(embedding)),
        });
    }

    fn skip(&mut self, set: Set, case: &str, reason: &str) {
        let (file, reason) = (format!("references/{}.png", case.replace(' ', "-")), reason.to_owned());
        self.skipped.push(Skipped { set, case: case.to_owned(), file, reason });
    }
}

fn method(name: &str, kind: MethodKind, num_parameters: Option<u64>) -> Method {
    let sha256 = (kind == MethodKind::Adapter).then(|| ipa_formats::sha256_text(name));
    Method { name: name.to_owned(), kind, num_parameters, sha256 }
}

/// From -1 to 1, by the text alone.
fn noise(text: &str) -> f64 {
    sample_seed(text, 0) as f64 / (1_u64 << 52) as f64 - 1.0
}

fn noise_of(text: &str, index: usize) -> f64 {
    noise(&format!("{text} {index}"))
}
