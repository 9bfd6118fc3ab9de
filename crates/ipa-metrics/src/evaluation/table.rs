//! The same numbers as tables for spreadsheets and data frames.

use std::collections::BTreeSet;

use super::report::{EvaluationReport, MethodReport, Summary};
use super::{MethodKind, Row, Set};
use crate::Interval;

impl EvaluationReport {
    /// `pictures.csv`: a row a picture, in the order of the report, with a column for each judge.
    pub fn pictures_csv(&self) -> String {
        let judges: BTreeSet<&String> = self.pictures.iter().flat_map(|row| row.judged.keys()).collect();
        let header = [
            "set",
            "case",
            "method",
            "prompt_index",
            "prompt",
            "reference",
            "seed",
            "scale",
            "file",
            "image_cosine",
            "text_cosine",
            "first_caption_cosine",
            "mean_caption_cosine",
            "captions",
            "nearest_training_file",
            "nearest_training_cosine",
        ];
        let header = header.map(str::to_owned).into_iter().chain(judges.iter().map(|judge| format!("judged_{judge}")));
        let rows = self.pictures.iter().map(|row| picture(row, &judges));
        written(std::iter::once(header.collect()).chain(rows))
    }

    /// `summary.csv`: a row for each mean, with its interval and over how many cases it is.
    pub fn summary_csv(&self) -> String {
        let header = ["method", "kind", "set", "scale", "measure", "mean", "low", "high", "num_cases"];
        let rows = self.methods().flat_map(|method| summaries(method, self.settings.scale));
        written(std::iter::once(header.map(str::to_owned).to_vec()).chain(rows))
    }
}

fn picture(row: &Row, judges: &BTreeSet<&String>) -> Vec<String> {
    let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    let captions = &row.caption_cosines;
    let mean = (!captions.is_empty()).then(|| captions.iter().sum::<f64>() / captions.len() as f64);
    let nearest = row.nearest_training.as_ref();
    let fixed = [
        set_name(row.set).to_owned(),
        text(&row.case),
        text(&row.method),
        row.prompt_index.to_string(),
        text(&row.prompt),
        text(&row.reference),
        row.seed.to_string(),
        row.scale.to_string(),
        text(&row.file),
        row.image_cosine.to_string(),
        number(row.text_cosine),
        number(captions.first().copied()),
        number(mean),
        text(&row.captions.join("\n")),
        nearest.map(|nearest| text(&nearest.file)).unwrap_or_default(),
        number(nearest.map(|nearest| nearest.cosine)),
    ];
    let judged = judges.iter().map(|judge| row.judged.get(*judge).map(bool::to_string).unwrap_or_default());
    fixed.into_iter().chain(judged).collect()
}

fn summaries(method: &MethodReport, scale: f64) -> Vec<Vec<String>> {
    let scale = if method.kind == MethodKind::Adapter { scale.to_string() } else { String::new() };
    let row = |set: &str,
               scale: &str,
               measure: &str,
               Interval { mean, low, high }: Interval,
               num_cases: Option<usize>| {
        let num_cases = num_cases.map(|num| num.to_string()).unwrap_or_default();
        let texts = [&text(&method.name), kind_name(method.kind), set, scale, measure].map(str::to_owned);
        texts.into_iter().chain([mean, low, high].map(|value| value.to_string())).chain([num_cases]).collect::<Vec<_>>()
    };
    let mut rows = Vec::new();
    let sets = [(Set::Tests, &method.tests), (Set::HeldOut, &method.held_out), (Set::Protocol, &method.protocol)];
    for (set, summary) in sets.into_iter().filter_map(|(set, summary)| Some((set, summary.as_ref()?))) {
        let measures = measures(summary);
        rows.extend(measures.into_iter().map(|(name, value, num)| row(set_name(set), &scale, &name, value, Some(num))));
    }
    for at in method.scale_sensitivity.iter().flat_map(|sensitivity| &sensitivity.scales) {
        let measures = [("clip_i", Some(at.clip_i), at.num_cases), ("clip_t", at.clip_t, at.num_clip_t_cases)];
        let measures = measures.into_iter().filter_map(|(name, value, num)| Some((name, value?, num)));
        let scale = at.scale.to_string();
        rows.extend(measures.map(|(name, value, num)| row("scale_sensitivity", &scale, name, value, Some(num))));
    }
    let others = [
        ("diversity", scale.as_str(), method.diversity),
        ("prompt_sensitivity", &scale, method.prompt_sensitivity),
        // Over every strength.
        ("nearest_training", "", method.copying.as_ref().map(|copying| copying.nearest)),
    ];
    let others = others.into_iter().filter_map(|(name, scale, value)| Some((name, scale, value?)));
    rows.extend(others.map(|(name, scale, value)| row("", scale, name, value, None)));
    rows
}

/// Means with the number of cases that each is over.
fn measures(summary: &Summary) -> Vec<(String, Interval, usize)> {
    let captions = summary.captions.as_ref();
    let plain = [
        ("clip_i", Some(summary.clip_i)),
        ("clip_t", summary.clip_t),
        ("clip_t_first_caption", captions.map(|captions| captions.first)),
        ("clip_t_mean_caption", captions.map(|captions| captions.mean)),
        ("clip_score_first_caption", captions.map(|captions| captions.first_clip_score)),
        ("clip_score_mean_caption", captions.map(|captions| captions.mean_clip_score)),
        ("calibrated", summary.calibrated),
    ];
    let num = |name: &str| if name == "clip_t" { summary.num_clip_t_cases } else { summary.num_cases };
    let plain = plain.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?, num(name))));
    let judged = summary.judged.iter().map(|(judge, share)| (format!("judged_{judge}"), *share, summary.num_cases));
    plain.chain(judged).collect()
}

/// A set as JSON and CSV call it.
fn set_name(set: Set) -> &'static str {
    match set {
        Set::Tests => "tests",
        Set::HeldOut => "held_out",
        Set::Protocol => "protocol",
        Set::Training => "training",
    }
}

fn kind_name(kind: MethodKind) -> &'static str {
    match kind {
        MethodKind::Adapter => "adapter",
        MethodKind::TextOnly => "text_only",
        MethodKind::ReferenceItself => "reference_itself",
    }
}

/// A text that no spreadsheet takes for a formula: one that begins like it gets a quote before it, as OWASP's page on
/// CSV injection recommends.
fn text(text: &str) -> String {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{text}"),
        false => text.to_owned(),
    }
}

fn written(rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    rows.for_each(|row| writer.write_record(&row).expect("all rows are as wide as the header"));
    let bytes = writer.into_inner().expect("memory takes all");
    String::from_utf8(bytes).expect("texts stay texts")
}
