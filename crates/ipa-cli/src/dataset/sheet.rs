//! The contact sheet.

use ipa_metrics::{Contact, Flag, Report, Thumbnail};
use ipa_train::{CheckedRow, DatasetCheck, Finding};

use super::{CheckArgs, NUM_EXAMPLES, counted, cut, example, facts, kinds};
use crate::thumbnails;

/// Pictures on the page.
const MAX_CONTACTS: usize = 300;
/// Their longer side, twice what they are shown at.
const THUMBNAIL_SIDE: u32 = 256;
const JPEG_QUALITY: f32 = 80.0;
/// Longer captions and remarks are cut.
const TEXT_CHARS: usize = 100;

/// The whole page.
pub(super) fn page(check: &DatasetCheck, args: &CheckArgs) -> String {
    let mut report = Report::new(args.data.display().to_string(), counted(check));
    report.key_values(&facts(check));
    report.section("Findings");
    let findings: Vec<Vec<String>> = kinds(check).map(|(kind, rows)| finding(kind, &rows)).collect();
    match findings.is_empty() {
        true => report.paragraph("Nothing."),
        false => report.table(&["finding", "rows", "examples"], &findings),
    };
    let faults = check.told_faults();
    if !faults.is_empty() {
        report.section("Unusable rows and shards");
        faults.iter().take(MAX_CONTACTS).for_each(|fault| {
            report.paragraph(fault);
        });
    }
    let rank = |row: &&CheckedRow| match row.findings.iter().any(Finding::is_fault) {
        true => 0,
        false if flags(check, row).next().is_some() => 1,
        false => 2,
    };
    let mut room = MAX_CONTACTS;
    for (place, title) in ["At fault", "Worth a look", "All others"].into_iter().enumerate() {
        let rows: Vec<&CheckedRow> = check.rows.iter().filter(|row| rank(row) == place).collect();
        let shown: Vec<Contact> = rows.iter().take(room).map(|row| contact(check, row)).collect();
        room -= shown.len();
        if !shown.is_empty() {
            report.section(title);
            if shown.len() < rows.len() {
                report.paragraph(&format!("The first {} of {}.", shown.len(), rows.len()));
            }
            report.contact_sheet(&shown);
        }
    }
    report.to_html()
}

fn finding(kind: &str, rows: &[(&CheckedRow, &Finding)]) -> Vec<String> {
    let examples: Vec<String> =
        rows.iter().take(NUM_EXAMPLES).map(|(row, finding)| shortened(&example(row, finding))).collect();
    vec![kind.to_owned(), rows.len().to_string(), examples.join("; ")]
}

/// What is remarked on a row; what all rows lack is no remark on one.
fn flags<'a>(check: &DatasetCheck, row: &'a CheckedRow) -> impl Iterator<Item = &'a Finding> {
    let (has_licenses, has_consents) = (check.has_licenses, check.has_consents);
    row.findings.iter().filter(move |finding| match finding {
        Finding::NoLicense => has_licenses,
        Finding::NoConsent => has_consents,
        _ => true,
    })
}

fn contact(check: &DatasetCheck, row: &CheckedRow) -> Contact {
    let flag = |finding: &Finding| {
        let detail = finding.detail();
        let text = if detail.is_empty() { finding.kind().to_owned() } else { format!("{}: {detail}", finding.kind()) };
        Flag { text: shortened(&text), is_fault: finding.is_fault() }
    };
    let size = row.size.map(|(width, height)| format!(" · {width} x {height}")).unwrap_or_default();
    Contact {
        title: format!("{}{size}", row.key),
        thumbnail: thumbnail(row),
        caption: shortened(&row.text),
        flags: flags(check, row).map(flag).collect(),
    }
}

fn shortened(text: &str) -> String {
    cut(text, TEXT_CHARS)
}

/// A row's picture made small; broken ones have none.
fn thumbnail(row: &CheckedRow) -> Option<Thumbnail> {
    let picture = row.picture.as_ref()?.picture().ok()?;
    let small = thumbnails::small(&picture, THUMBNAIL_SIDE);
    let jpeg = thumbnails::jpeg(&small, JPEG_QUALITY).ok()?;
    Some(Thumbnail { jpeg, width: small.width(), height: small.height() })
}
