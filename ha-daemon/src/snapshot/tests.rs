use super::*;

/// The words that a type is read from, as its reader names them when it gets another one.
fn words<T: serde::de::DeserializeOwned>() -> Vec<String> {
    let error = serde_json::from_str::<T>("\"\"").err().map(|error| error.to_string());
    let words = error.unwrap_or_default();
    words.split('`').skip(3).step_by(2).map(str::to_owned).collect()
}

fn written<T: Serialize>(values: &[T]) -> Vec<String> {
    let word = |value| serde_json::to_string(value).unwrap().replace('"', "");
    values.iter().map(word).collect()
}

#[test]
fn all_states_are_all_that_there_are() {
    assert_eq!(written(&NodeState::ALL), words::<NodeState>());
    assert_eq!(written(&LinkState::ALL), words::<LinkState>());
    assert_eq!(written(&GroupState::ALL), words::<GroupState>());
}
