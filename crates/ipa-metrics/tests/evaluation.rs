//! Evaluations from measurements to files.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::sync::OnceLock;

use ipa_metrics::evaluation::{
    EvaluationReport, MeasurementLog, Measurements, MethodKind, NearestTraining, ProtocolSize, PublishedScores, Remark,
    Row, Set, Tone, read_measurements,
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
    assert!(said(Tone::Plain, "mascot keeps"), "three tests are never called good: {:?}", report.verdict);
    assert!(!said(Tone::Caution, "Text only was not drawn"), "{:?}", report.verdict);
    assert!(said(Tone::Plain, "Beside text only, mascot is closer to the reference by"), "{:?}", report.verdict);
    assert!(said(Tone::Caution, "as near to a training picture as a copy"), "{:?}", report.verdict);
    assert!(said(Tone::Caution, "3 tests are an impression"), "{:?}", report.verdict);
    assert!(said(Tone::Caution, "2 cases were skipped"), "{:?}", report.verdict);
}

/// Twelve tests, of which an adapter that is switched off has the same percentages.
#[test]
fn scores_are_called_good_beside_text_alone_only() {
    let verdict = |likeness_of_text_only: Option<f64>| {
        let mut made_up = support::evaluation();
        let is_meant = |row: &&Row| row.set == Set::Tests && row.prompt_index == 0 && row.case == "test 1";
        let of = |method: &str| {
            made_up
                .rows
                .iter()
                .filter(is_meant)
                .find(|row| row.method == method && row.scale == if method == "mascot" { 0.5 } else { 0.0 })
        };
        let (own, text_only) = (of("mascot").unwrap().clone(), of("text only").unwrap().clone());
        made_up.rows.clear();
        for index in 0..12 {
            let named = |row: &Row, image_cosine: f64| Row {
                case: format!("test {index}"),
                file: format!("pictures/{}-{index}.png", row.method),
                image_cosine,
                text_cosine: Some(0.5),
                ..row.clone()
            };
            made_up.rows.push(named(&own, 0.6 + 0.01 * f64::from(index)));
            made_up.rows.extend(likeness_of_text_only.map(|likeness| named(&text_only, likeness)));
        }
        measured(&made_up).report().unwrap().verdict
    };
    let tone = |verdict: &[Remark]| verdict.iter().find(|remark| remark.text.contains("mascot keeps")).unwrap().tone;
    let warns = |verdict: &[Remark]| verdict.iter().any(|remark| remark.text.contains("Text only was not drawn"));
    let (closer, same, alone) = (verdict(Some(0.3)), verdict(Some(0.655)), verdict(None));
    assert_eq!([&closer, &same, &alone].map(|verdict| tone(verdict)), [Tone::Good, Tone::Plain, Tone::Plain]);
    assert_eq!([&closer, &same, &alone].map(|verdict| warns(verdict)), [false, false, true]);
}

#[test]
fn a_protocol_run_is_set_beside_the_papers_table() {
    let made_up = support::protocol();
    let report = measured(&made_up).report().unwrap();
    assert_eq!(report.published.as_ref().unwrap().rows, PublishedScores::paper().rows);
    let found = report.adapters[0].protocol.as_ref().unwrap();
    assert_eq!((found.num_cases, found.num_pictures), (8, 32));
    let captions = found.captions.as_ref().unwrap();
    assert!((captions.first_clip_score.mean - 2.5 * captions.first.mean).abs() < 1e-12);
    let html = report.to_html(&made_up.pictures);
    let deviation = "8 images in place of 5000";
    assert_eq!(report.published.as_ref().unwrap().deviations, [deviation]);
    let told = report.verdict.iter().find(|remark| remark.text.contains(deviation)).unwrap();
    assert_eq!(told.tone, Tone::Caution);
    assert_eq!(html.matches(deviation).count(), 2, "in the verdict and above the table");
    assert_eq!(html.matches(">published</td>").count(), 9);
    assert_eq!(html.matches(">measured</td>").count(), 1);
    assert!(html.contains("nothing of them was measured here"));
}

#[test]
fn a_run_scored_otherwise_is_not_comparable() {
    let mut made_up = support::protocol();
    made_up.settings.metric_model = "pocket/clip".to_owned();
    made_up.settings.size = [64, 64];
    made_up.settings.protocol = Some(ProtocolSize { num_images: 9, num_samples: 2 });
    let deviations = measured(&made_up).report().unwrap().published.unwrap().deviations.join(", ");
    for words in
        ["scored by pocket/clip in place of openai/", "size 64 × 64 in place of 512 × 512", "samples 2 in place"]
    {
        assert!(deviations.contains(words), "{deviations}");
    }
}

#[test]
fn a_part_of_a_run_says_so() {
    let mut made_up = support::protocol();
    let said = |made_up: &MadeUp| {
        let report = measured(made_up).report().unwrap();
        assert_valid(&serde_json::to_value(&report).unwrap());
        report.verdict.iter().any(|remark| remark.tone == Tone::Caution && remark.text.contains("8 of 9 images"))
    };
    assert!(!said(&made_up), "eight are drawn and one is skipped");
    made_up.rows.retain(|row| row.case != "139");
    assert!(said(&made_up));
}

/// A picture of text alone is of several cases, each with another likeness.
#[test]
fn a_shared_picture_has_the_numbers_of_each_case() {
    let mut made_up = support::evaluation();
    let shared = "pictures/shared.png";
    made_up.rows.retain(|row| row.method != "text only" || (row.set == Set::Tests && row.seed == 0));
    for row in made_up.rows.iter_mut().filter(|row| row.method == "text only") {
        row.file = shared.to_owned();
        row.image_cosine = if row.case == "test 1" { 0.111 } else { 0.222 };
    }
    // As the next test's prompt, it is of the first test too, and comes first in order.
    let first = made_up.rows.iter().find(|row| row.method == "text only").unwrap().clone();
    made_up.rows.push(Row { prompt_index: 1, image_cosine: 0.333, ..first });
    let report = measured(&made_up).report().unwrap();
    let html = report.to_html(&made_up.pictures);
    let tests = &html[html.find(">Tests</h2>").unwrap()..html.find("Likeness to the reference, test by test").unwrap()];
    let count = |number: &str| tests.matches(&format!("<b>CLIP-I {number}</b>")).count();
    assert_eq!(["0.111", "0.222", "0.333"].map(count), [1, 2, 0]);
    assert_eq!(report.baselines[0].tests.as_ref().unwrap().num_pictures, 3);
}

#[test]
fn percentages_say_over_how_many_tests_they_are() {
    let mut made_up = support::evaluation();
    let is_mute = |row: &Row| row.set == Set::Tests && row.case == "test 2";
    for row in made_up.rows.iter_mut().filter(|row| is_mute(row)) {
        (row.prompt, row.text_cosine) = (String::new(), None);
    }
    let report = measured(&made_up).report().unwrap();
    assert_valid(&serde_json::to_value(&report).unwrap());
    let tests = report.adapters[0].tests.as_ref().unwrap();
    assert_eq!((tests.num_cases, tests.num_clip_t_cases), (3, 2));
    let found = report.comparisons.iter().find(|found| found.set == Set::Tests).unwrap();
    assert_eq!((found.num_cases, found.num_clip_t_cases), (3, 2));
    assert!(report.verdict[0].text.ends_with("over 2 of 3 tests with a prompt."), "{:?}", report.verdict[0]);
    assert!(report.to_html(&made_up.pictures).contains("2 of 3 tests with a prompt"));
    let line = report.summary_csv().lines().find(|line| line.contains("tests,0.5,clip_t,")).unwrap().to_owned();
    assert!(line.ends_with(",2"), "{line}");
}

#[test]
fn the_difference_to_text_alone_comes_next_and_few_cases_are_chance() {
    let (_, report, _) = whole();
    let next = &report.verdict[1].text;
    assert!(next.starts_with("Beside text only, mascot") && next.contains("(which could be chance)"), "{next}");
    assert_eq!(next.matches("(which could be chance)").count(), 2, "three cases tell nothing: {next}");
}

#[test]
fn a_grade_that_says_little_is_called_so() {
    let mut made_up = support::evaluation();
    for row in made_up.rows.iter_mut().filter(|row| row.set == Set::Tests && row.method == "text only") {
        row.text_cosine = Some(0.5);
    }
    for row in made_up.rows.iter_mut().filter(|row| row.method == "reference itself") {
        row.text_cosine = Some(0.4);
    }
    let verdict = measured(&made_up).report().unwrap().verdict;
    let said = verdict.iter().find(|remark| remark.text.contains("mascot's grade says little")).unwrap();
    assert!(said.tone == Tone::Caution && said.text.contains("text only follows 100 %"), "{said:?}");
    assert!(said.text.contains("handed back has 100 % combined"), "{said:?}");
    let mut plain = support::evaluation();
    for row in plain.rows.iter_mut().filter(|row| row.method == "reference itself") {
        row.text_cosine = Some(0.0);
    }
    let verdict = measured(&plain).report().unwrap().verdict;
    assert!(!verdict.iter().any(|remark| remark.text.contains("grade says little")), "{verdict:?}");
}

#[test]
fn strengths_are_told_with_their_trends() {
    let mut made_up = support::evaluation();
    for row in made_up.rows.iter_mut().filter(|row| row.set == Set::Tests && row.method == "mascot") {
        row.image_cosine =
            [(0.5, 0.7), (1.0, 0.9), (1.5, 0.8), (2.0, 0.75)].into_iter().find(|at| at.0 == row.scale).unwrap().1;
        row.text_cosine = Some(0.4 - 0.1 * row.scale);
    }
    let report = measured(&made_up).report().unwrap();
    let said = report.verdict.iter().find(|remark| remark.text.contains("mascot's CLIP-I is highest")).unwrap();
    assert!(said.text.contains("highest at λ = 1, with 0.900 [") && said.text.contains("(trend 0.00)"), "{said:?}");
    assert!(said.text.contains("CLIP-T falls at every step, from 0.350 ["), "{said:?}");
    assert!(said.text.contains("no worse beyond chance at"), "three cases tell nothing: {said:?}");
    assert!(report.to_html(&made_up.pictures).contains("trend of CLIP-T"));
}

#[test]
fn copies_are_counted_by_picture_at_every_strength() {
    let mut made_up = support::evaluation();
    made_up.rows.retain(|row| row.set == Set::Tests && row.method == "mascot");
    let near = |cosine| Some(NearestTraining { file: "training/pip-2.png".to_owned(), cosine });
    made_up.rows.iter_mut().for_each(|row| row.nearest_training = near(if row.scale == 2.0 { 0.99 } else { 0.5 }));
    let first = made_up.rows[0].clone();
    made_up.rows.push(Row { case: "test 2".to_owned(), seed: 9, ..first }); // one picture, two rows
    let copying = measured(&made_up).report().unwrap().adapters[0].copying.clone().unwrap();
    assert_eq!((copying.num_pictures, copying.num_likely_copies), (3 * (6 + 3), 3));
}

#[test]
fn charts_show_what_their_crosses_are_means_of() {
    let made_up = support::evaluation();
    let html = measured(&made_up).report().unwrap().to_html(&made_up.pictures);
    let chart = &html[html.find("by its two cosines").unwrap()..];
    assert!(chart.contains("mascot: 9 values"), "three tests with three seeds, their own prompts alone");
}

#[test]
fn per_test_numbers_leave_out_the_reference_itself() {
    let html = &whole().2[3];
    let likeness = &html[html.find("Likeness to the reference, test by test").unwrap()
        ..html.find(">Against the baselines</h2>").unwrap()];
    assert_eq!(likeness.matches("reference itself</th>").count(), 1, "in the table of methods alone");
    assert!(!likeness[..likeness.find("</svg>").unwrap()].contains("reference itself"));
}

#[test]
fn long_prompts_do_not_stretch_the_page() {
    let mut made_up = support::evaluation();
    let long = "a very long prompt ".repeat(200);
    made_up.rows.iter_mut().for_each(|row| row.prompt = format!("{long}{}", row.prompt_index));
    let html = measured(&made_up).report().unwrap().to_html(&made_up.pictures);
    let shown = html.matches(&format!(">{long}")).count();
    assert!(shown > 0);
    assert_eq!(html.matches("<span class=\"clamped\" title=\"a very long").count(), shown);
    assert!(html.contains("-webkit-line-clamp"));
}

#[test]
fn spreadsheets_find_no_formulas() {
    let mut made_up = support::evaluation();
    made_up.rows.iter_mut().for_each(|row| row.prompt = "=HYPERLINK(1)".to_owned());
    made_up.rows[0].image_cosine = -0.5;
    made_up.settings.methods[0].name = "@mascot".to_owned();
    for row in made_up.rows.iter_mut().filter(|row| row.method == "mascot") {
        row.method = "@mascot".to_owned();
    }
    let report = measured(&made_up).report().unwrap();
    let tables = [report.pictures_csv(), report.summary_csv()];
    for cell in tables
        .iter()
        .flat_map(|text| csv::Reader::from_reader(text.as_bytes()).into_records())
        .flat_map(|record| record.unwrap().iter().map(str::to_owned).collect::<Vec<_>>())
    {
        assert!(!cell.starts_with(['=', '+', '@', '-']) || cell.parse::<f64>().is_ok(), "{cell}");
    }
    assert!(tables[0].contains(",-0.5,") && tables[0].contains("'=HYPERLINK(1)"));
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
        ("/schema_version", json!(1)),
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
