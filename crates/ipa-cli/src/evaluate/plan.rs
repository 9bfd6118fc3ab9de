//! Which pictures an evaluation draws.

use ipa_metrics::evaluation::{Method, MethodKind, PictureId, Set, Settings};

use super::methods::REFERENCE_ITSELF;
use super::names::file_name;
use super::subject::Subject;
use ipa_formats::sha256_text;

/// One picture to be drawn, and the rows of the measurements that it is for: without a reference one picture does for
/// every subject that is tried with its prompt.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Drawing {
    pub(super) prompt: String,
    pub(super) scale: f64,
    pub(super) seed: u64,
    /// Relative to the report.
    pub(super) file: String,
    /// The subject whose reference is shown, if one is.
    pub(super) reference: Option<usize>,
    /// Subject and number of the prompt.
    pub(super) rows: Vec<(usize, usize)>,
}

impl Drawing {
    /// What tells the row of one of its subjects from all others.
    pub(super) fn id<'a>(&self, method: &'a str, subject: &'a Subject, prompt_index: usize) -> PictureId<'a> {
        let (scale, seed) = (self.scale, self.seed);
        PictureId { set: subject.set, case: &subject.case.name, method, prompt_index, scale, seed }
    }
}

/// What is tried with the tests beside their own prompts and seeds.
#[derive(Debug, Clone)]
pub(super) struct Trials {
    pub(super) seeds: Vec<u64>,
    /// Tried with every reference; without any, each takes that of the next.
    pub(super) prompts: Vec<String>,
}

impl Trials {
    /// The prompts of every subject, its own first.
    pub(super) fn prompts_of(&self, subjects: &[Subject]) -> Vec<Vec<String>> {
        let tests: Vec<usize> = (0..subjects.len()).filter(|&index| subjects[index].set == Set::Tests).collect();
        let others = |index: usize| -> Vec<String> {
            let Some(place) = tests.iter().position(|&test| test == index) else { return Vec::new() };
            match self.prompts.is_empty() {
                true => vec![subjects[tests[(place + 1) % tests.len()]].case.prompt.clone()],
                false => self.prompts.clone(),
            }
        };
        let of_subject = |(index, subject): (usize, &Subject)| {
            let own = &subject.case.prompt;
            std::iter::once(own.clone()).chain(others(index).into_iter().filter(|other| other != own)).collect()
        };
        subjects.iter().enumerate().map(of_subject).collect()
    }

    /// The pictures of a method, each once.
    pub(super) fn drawings(&self, method: &Method, settings: &Settings, subjects: &[Subject]) -> Vec<Drawing> {
        let prompts = self.prompts_of(subjects);
        match method.kind {
            MethodKind::Adapter => (0..subjects.len())
                .flat_map(|index| self.of_adapter(method, settings, (index, &subjects[index]), &prompts[index]))
                .collect(),
            MethodKind::TextOnly => self.of_text(method, subjects, &prompts),
            MethodKind::ReferenceItself => Vec::new(),
        }
    }

    /// Every prompt with every seed at the strength that counts; at the others the first seed.
    fn of_adapter(
        &self,
        method: &Method,
        settings: &Settings,
        (index, subject): (usize, &Subject),
        prompts: &[String],
    ) -> Vec<Drawing> {
        let drawing = |prompt_index: usize, scale: f64, seed: u64| Drawing {
            prompt: prompts[prompt_index].clone(),
            scale,
            seed,
            file: subject.picture_file(&method.name, &format!("p{prompt_index}-l{scale}-s{seed}")),
            reference: Some(index),
            rows: vec![(index, prompt_index)],
        };
        let first = self.seeds[0];
        if subject.set != Set::Tests {
            return vec![drawing(0, settings.scale, first)];
        }
        let counting =
            (0..prompts.len()).flat_map(|prompt| self.seeds.iter().map(move |&seed| (prompt, settings.scale, seed)));
        let sweep = settings.scales.iter().filter(|&&scale| scale != settings.scale).map(|&scale| (0, scale, first));
        counting.chain(sweep).map(|(prompt, scale, seed)| drawing(prompt, scale, seed)).collect()
    }

    /// One picture for each prompt and seed, whatever references are tried with them.
    fn of_text(&self, method: &Method, subjects: &[Subject], prompts: &[Vec<String>]) -> Vec<Drawing> {
        let mut found: Vec<Drawing> = Vec::new();
        for (index, subject) in subjects.iter().enumerate() {
            let seeds = if subject.set == Set::Tests { &self.seeds[..] } else { &self.seeds[..1] };
            let tried = prompts[index].iter().enumerate().flat_map(|pair| seeds.iter().map(move |&seed| (pair, seed)));
            for ((prompt_index, prompt), seed) in tried {
                match found.iter_mut().find(|drawing| drawing.prompt == *prompt && drawing.seed == seed) {
                    Some(drawing) => drawing.rows.push((index, prompt_index)),
                    None => found.push(Drawing {
                        prompt: prompt.clone(),
                        scale: 0.0,
                        seed,
                        file: format!(
                            "pictures/{}/{}-s{seed}.png",
                            file_name(&method.name),
                            &sha256_text(prompt)[..12]
                        ),
                        reference: None,
                        rows: vec![(index, prompt_index)],
                    }),
                }
            }
        }
        found
    }
}

/// What tells the row of a reference that is handed back.
pub(super) fn handed_back(subject: &Subject) -> PictureId<'_> {
    let (set, case) = (subject.set, subject.case.name.as_str());
    PictureId { set, case, method: REFERENCE_ITSELF, prompt_index: 0, scale: 0.0, seed: 0 }
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::super::cases::Case;
    use super::super::methods::{TEXT_ONLY, baseline};
    use super::*;

    fn subject(set: Set, name: &str, prompt: &str) -> Subject {
        let (name, prompt) = (name.to_owned(), prompt.to_owned());
        let case = Case { name, reference: RgbImage::new(1, 1), prompt, scene: None };
        Subject {
            set,
            case,
            reference_file: "r.png".to_owned(),
            embedding: vec![1.0],
            captions: Vec::new(),
            caption_embeddings: Vec::new(),
        }
    }

    fn settings() -> Settings {
        Settings {
            title: String::new(),
            model: String::new(),
            metric_model: String::new(),
            methods: vec![
                Method { kind: MethodKind::Adapter, name: "a".to_owned(), ..baseline(MethodKind::TextOnly) },
                baseline(MethodKind::TextOnly),
            ],
            scale: 0.5,
            scales: vec![0.5, 1.0, 2.0],
            sampler: String::new(),
            num_steps: 1,
            guidance_scale: 1.0,
            size: [8, 8],
            protocol: None,
            calibration: None,
            choices: Vec::new(),
        }
    }

    #[test]
    fn every_row_is_drawn_once_and_text_alone_once_a_prompt_and_seed() {
        let subjects = [
            subject(Set::Tests, "test 1", "a cat"),
            subject(Set::Tests, "test 2", "a dog"),
            subject(Set::HeldOut, "c.png", "a cat"),
        ];
        let trials = Trials { seeds: vec![0, 1], prompts: Vec::new() };
        let settings = settings();
        let drawn = trials.drawings(&settings.methods[0], &settings, &subjects);
        // Two prompts by two seeds and two other strengths for each test, one for the held-out reference.
        assert_eq!(drawn.len(), 2 * (4 + 2) + 1);
        let mut files: Vec<_> = drawn.iter().map(|drawing| drawing.file.as_str()).collect();
        files.sort_unstable();
        files.dedup();
        assert_eq!(files.len(), drawn.len());
        let text = trials.drawings(&settings.methods[1], &settings, &subjects);
        assert_eq!(text.len(), 4);
        assert_eq!(text[0].rows, [(0, 0), (1, 1), (2, 0)]);
        assert_eq!(text[0].id(TEXT_ONLY, &subjects[1], 1).case, "test 2");
    }

    #[test]
    fn a_reference_is_tried_with_other_prompts_that_differ_from_its_own() {
        let alone = [subject(Set::Tests, "test 1", "a cat")];
        let trials = |prompts: &[&str]| Trials {
            seeds: vec![0],
            prompts: prompts.iter().map(|&text| text.to_owned()).collect(),
        };
        assert_eq!(trials(&[]).prompts_of(&alone), [["a cat"]]);
        assert_eq!(trials(&["a cat", "a dog"]).prompts_of(&alone), [["a cat", "a dog"]]);
    }
}
