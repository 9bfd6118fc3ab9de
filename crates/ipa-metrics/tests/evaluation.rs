//! Evaluations from measurements to files.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::sync::OnceLock;

use ipa_metrics::evaluation::{
    EvaluationReport, MeasurementLog, Measurements, MethodKind, PublishedScores, Set, Tone, read_measurements,
};
use ipa_metrics::{bootstrap_mean, paired_difference};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::MadeUp;

fn measured(made_up: &MadeUp) -> Measurements {
    let mut measurements = Measurements::new(made_up.settings.clone()).unwrap();
    made_up.rows.iter().for_each(|row| measurements.add(row.clone()).unwrap());
    made_up.skipped.iter().for_each(|skipped| assert!(measurements.skip(skipped.clone())));
    measurements
}

/// JSON, both tables and the page.
fn files(report: &EvaluationReport, made_up: &MadeUp) -> [String; 4] {
    [report.to_json(), report.pictures_csv(), report.summary_csv(), report.to_html(&made_up.pictures)]
}

/// A made-up evaluation, its report and the report's files.
fn whole() -> &'static (MadeUp, EvaluationReport, [String; 4]) {
    static WHOLE: OnceLock<(MadeUp, EvaluationReport, [String; 4])> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let made_up = support::evaluation();
        let report = measured(&made_up).report().unwrap();
        let files = files(&report, &made_up);
        (made_up, report, files)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Rows in any order, split over any number of files that may overlap, read in any order.
    #[test]
    fn any_split_and_order_of_rows_gives_the_same_bytes(
        shuffled in Just((0..support::evaluation().rows.len()).collect::<Vec<usize>>()).prop_shuffle(),
        shards in prop::collection::vec((0..4_usize, 0..4_usize), 200),
    ) {
        let (made_up, _, expected) = whole();
        let folder = tempfile::tempdir().unwrap();
        let paths = [3, 1, 0, 2].map(|shard| folder.path().join(format!("{shard}.jsonl")));
        {
            let open = |path| MeasurementLog::open(path, made_up.settings.clone()).unwrap();
            let mut logs = paths.each_ref().map(|path| open(path));
            for (index, (first, second)) in shuffled.iter().zip(&shards) {
                for shard in [first, second] {
                    logs[*shard].add(made_up.rows[*index].clone()).unwrap();
                }
            }
            for (skipped, (first, second)) in made_up.skipped.iter().rev().zip(&shards) {
                [first, second].into_iter().for_each(|shard| logs[*shard].skip(skipped.clone()).unwrap());
            }
        }
        let merged = read_measurements(&paths).unwrap();
        prop_assert_eq!(files(&merged.report().unwrap(), made_up), expected.clone());
    }
}

#[test]
fn reports_are_read_back_as_they_were() {
    for made_up in [support::evaluation(), support::protocol()] {
        let report = measured(&made_up).report().unwrap();
        assert_eq!(serde_json::from_str::<EvaluationReport>(&report.to_json()).unwrap(), report);
    }
}

#[test]
fn every_number_can_be_computed_again_from_the_pictures() {
    let (_, report, _) = whole();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let by_case = |method: &str, scale: f64| -> Vec<f64> {
        let cases = ["test 1", "test 2", "test 3"];
        let of_case = |case: &str| {
            let rows = report.pictures.iter().filter(|row| row.set == Set::Tests && row.case == case);
            let rows = rows.filter(|row| row.method == method && row.prompt_index == 0 && row.scale == scale);
            mean(&rows.map(|row| row.image_cosine).collect::<Vec<_>>())
        };
        cases.map(of_case).to_vec()
    };
    let (mascot, text_only) = (by_case("mascot", 0.5), by_case("text only", 0.0));
    let tests = report.adapters[0].tests.as_ref().unwrap();
    assert_eq!((tests.num_cases, tests.num_pictures), (3, 9));
    assert_eq!(tests.clip_i, bootstrap_mean(&mascot, 0).unwrap());
    let found =
        report.comparisons.iter().find(|found| found.method == "mascot" && found.against == "text only").unwrap();
    assert_eq!(found.clip_i, paired_difference(&text_only, &mascot, 0).unwrap());
    let scales = &report.adapters[0].scale_sensitivity.as_ref().unwrap().scales;
    assert_eq!(scales.iter().map(|at| at.scale).collect::<Vec<_>>(), [0.5, 1.0, 1.5, 2.0]);
    assert_eq!(scales[2].clip_i, bootstrap_mean(&by_case("mascot", 1.5), 0).unwrap());
}

#[test]
fn baselines_stand_apart_and_a_reference_is_most_like_itself() {
    let (_, report, _) = whole();
    let kinds = report.baselines.iter().map(|method| method.kind).collect::<Vec<_>>();
    assert_eq!(kinds, [MethodKind::TextOnly, MethodKind::ReferenceItself]);
    assert_eq!(report.baselines[1].tests.as_ref().unwrap().clip_i.mean, 1.0);
    assert!(report.baselines.iter().all(|method| method.scale_sensitivity.is_none()));
    assert!(report.published.is_none());
}

#[test]
fn the_verdict_speaks_of_scores_chance_copies_and_what_is_missing() {
    let (_, report, _) = whole();
    let said = |tone: Tone, words: &str| {
        report.verdict.iter().any(|remark| remark.tone == tone && remark.text.contains(words))
    };
    assert!(said(Tone::Good, "mascot keeps") || said(Tone::Plain, "mascot keeps"), "{:?}", report.verdict);
    assert!(said(Tone::Plain, "Beside text only, mascot is closer to the reference by"), "{:?}", report.verdict);
    assert!(said(Tone::Caution, "as near to a training picture as a copy"), "{:?}", report.verdict);
    assert!(said(Tone::Caution, "3 tests are an impression"), "{:?}", report.verdict);
    assert!(said(Tone::Caution, "2 cases were skipped"), "{:?}", report.verdict);
}

#[test]
fn a_protocol_run_is_set_beside_the_papers_table() {
    let made_up = support::protocol();
    let report = measured(&made_up).report().unwrap();
    assert_eq!(report.published, Some(PublishedScores::paper()));
    let found = report.adapters[0].protocol.as_ref().unwrap();
    assert_eq!((found.num_cases, found.num_pictures), (8, 32));
    let captions = found.captions.as_ref().unwrap();
    assert!((captions.first_clip_score.mean - 2.5 * captions.first.mean).abs() < 1e-12);
    let html = report.to_html(&made_up.pictures);
    assert_eq!(html.matches(">published</td>").count(), 9);
    assert_eq!(html.matches(">measured</td>").count(), 1);
    assert!(html.contains("nothing of them was measured here"));
}

#[test]
fn nothing_measured_is_a_report_that_says_so() {
    let report = Measurements::new(support::evaluation().settings).unwrap().report().unwrap();
    assert!(report.verdict[0].text.contains("No picture of an adapter was measured"), "{:?}", report.verdict);
    assert!(report.to_html(&Default::default()).contains("No picture of an adapter"));
    assert_valid(&serde_json::to_value(&report).unwrap());
}

#[test]
fn tables_have_a_row_for_every_picture_and_every_mean() {
    let (made_up, report, [_, pictures, summary, _]) = whole();
    let records =
        |text: &str| csv::Reader::from_reader(text.as_bytes()).into_records().map(Result::unwrap).collect::<Vec<_>>();
    let pictures = records(pictures);
    assert_eq!(pictures.len(), made_up.rows.len());
    let first: f64 = pictures[0][9].parse().unwrap();
    assert_eq!(first, report.pictures[0].image_cosine, "every digit is kept");
    let clip_i = |record: &csv::StringRecord| &record[0] == "mascot" && &record[2] == "tests" && &record[4] == "clip_i";
    let mean = records(summary).into_iter().find(clip_i).unwrap()[5].parse::<f64>().unwrap();
    assert_eq!(mean, report.adapters[0].tests.as_ref().unwrap().clip_i.mean);
}

#[test]
fn the_page_needs_no_other_file_and_escapes_all_text() {
    let nasty = "<script>alert('x')</script>\" onload=\"y\" & more";
    let mut made_up = support::evaluation();
    made_up.settings.title = nasty.to_owned();
    made_up.settings.choices[0].question = nasty.to_owned();
    for row in &mut made_up.rows {
        row.prompt = format!("{nasty} {}", row.prompt_index);
        row.file = format!("{nasty}{}", row.file);
    }
    made_up.skipped[0].reason = nasty.to_owned();
    let html = measured(&made_up).report().unwrap().to_html(&made_up.pictures);
    assert_eq!(html.matches("<script").count(), 1, "only the page's own");
    assert!(!html.contains("\" onload=\""));
    let html = whole().2[3].clone();
    let parts = html.split(";base64,").map(|part| part.split_once('"').map_or(part, |(_, rest)| rest));
    let page: String = parts.collect();
    for outside in ["http:", "https:", "<link", "@import", "url(", "srcset", "<script src"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(html.matches("<img").count(), html.matches(" alt=\"").count());
    assert_eq!(
        html.matches("<img").count(),
        html.matches("<button class=\"zoom\"").count() + 1,
        "one more is the large one"
    );
    assert_eq!(html.matches("<svg").count(), html.matches("role=\"img\" aria-label=\"").count());
}

#[test]
fn files_are_written_beside_each_other() {
    let (made_up, report, files) = whole();
    let folder = tempfile::tempdir().unwrap();
    report.write(folder.path(), &made_up.pictures).unwrap();
    let names = ["evaluation_report.json", "pictures.csv", "summary.csv", "report.html"];
    for (name, text) in names.into_iter().zip(files) {
        assert_eq!(&std::fs::read_to_string(folder.path().join(name)).unwrap(), text, "{name}");
    }
    assert!(report.write(&folder.path().join("missing"), &made_up.pictures).is_err());
}

fn schema() -> jsonschema::Validator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/evaluation_report.schema.json");
    let schema: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
}

#[track_caller]
fn assert_valid(report: &Value) {
    let errors: Vec<String> =
        schema().iter_errors(report).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

#[test]
fn reports_are_what_the_schema_says() {
    for made_up in [support::evaluation(), support::protocol()] {
        assert_valid(&serde_json::to_value(measured(&made_up).report().unwrap()).unwrap());
    }
}

#[test]
fn what_the_schema_does_not_say_is_invalid() {
    let report = serde_json::to_value(&whole().1).unwrap();
    let schema = schema();
    assert!(schema.is_valid(&report));
    for (place, value) in [
        ("/schema_version", json!(2)),
        ("/adapters/0/kind", json!("wizard")),
        ("/adapters/0/tests/clip_i/mean", json!(1.5)),
        ("/adapters/0/test_cases/0/score/grade", json!("D")),
        ("/adapters/0/tests/num_cases", json!(0)),
        ("/pictures/0/image_cosine", json!(null)),
        ("/pictures/0/seed", json!(-1)),
        ("/settings/scales", json!([-0.5])),
        ("/skipped/0/reason", json!(3)),
        ("/verdict/0", json!({ "text": "no tone" })),
        ("/pictures/0", json!({ "set": "tests" })),
        ("/settings/choices/0", json!({ "question": "a", "answer": "b", "clock": 1 })),
    ] {
        let mut wrong = report.clone();
        *wrong.pointer_mut(place).unwrap() = value.clone();
        assert!(!schema.is_valid(&wrong), "{place} = {value}");
    }
}
