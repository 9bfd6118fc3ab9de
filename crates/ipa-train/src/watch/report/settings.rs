//! The configuration as a table.

use ipa_metrics::Report;
use serde_json::Value;

pub(super) fn section(page: &mut Report, settings: &Value) {
    page.section("Settings");
    let mut rows = Vec::new();
    flatten("", settings, &mut rows);
    match rows.is_empty() {
        true => page.paragraph("No settings were noted."),
        false => page.table(&["setting", "value"], &rows),
    };
}

/// Fields of sections under the names they have together, `section.field`.
fn flatten(name: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    let Value::Object(fields) = value else {
        let text = match value {
            Value::Null => "not set".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        if !(name.is_empty() && value.is_null()) {
            rows.push(vec![name.to_owned(), text]);
        }
        return;
    };
    for (field, value) in fields {
        match name.is_empty() {
            true => flatten(field, value, rows),
            false => flatten(&format!("{name}.{field}"), value, rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sections_become_parts_of_names() {
        let mut rows = Vec::new();
        flatten("", &json!({ "seed": 3, "data": { "scales": [0.5, 1], "from": "a b" }, "end": null }), &mut rows);
        rows.sort();
        let expected = [["data.from", "a b"], ["data.scales", "[0.5,1]"], ["end", "not set"], ["seed", "3"]];
        assert_eq!(rows, expected);
    }
}
