"""The transformer inside of scikit-learn: pipelines, clones, searches, column names."""

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ipu_chem.embedding import embed
from ipu_chem.embedding.transformer import ChemGPTEmbedding
from ipu_chem.tasks.language_model import LanguageModel


@pytest.fixture(autouse=True)
def no_warnings():
    """scikit-learn warns of estimators that it will not take in its next version."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        warnings.simplefilter("error", DeprecationWarning)
        yield


@pytest.fixture
def logp(smiles) -> np.ndarray:
    from rdkit import Chem
    from rdkit.Chem import Crippen

    return np.array([Crippen.MolLogP(Chem.MolFromSmiles(one)) for one in smiles])


def test_a_pipeline_predicts_log_p_better_than_the_mean(chemgpt, tokenizer, smiles, logp):
    pipeline = make_pipeline(ChemGPTEmbedding(chemgpt, tokenizer), StandardScaler(), Ridge())
    predicted = cross_val_predict(pipeline, smiles, logp, cv=3)
    explained = 1 - np.square(predicted - logp).sum() / np.square(logp - logp.mean()).sum()
    assert explained > 0.3
    order = np.random.default_rng(0).permutation(len(smiles))  # and not by anything but the molecules
    shuffled = cross_val_predict(pipeline, [smiles[row] for row in order], logp, cv=3)
    assert np.square(shuffled - logp).sum() > 0.9 * np.square(logp - logp.mean()).sum()


def test_vectors_are_those_of_embed(run_folder, chemgpt, tokenizer, smiles):
    expected = embed(chemgpt, tokenizer, smiles[:9], "max").values
    for model in (run_folder, str(run_folder), LanguageModel(chemgpt, tokenizer, {})):
        transformer = ChemGPTEmbedding(model, pooling="max")
        for texts in (smiles[:9], np.array(smiles[:9]), np.array(smiles[:9], object)[:, None]):
            np.testing.assert_allclose(transformer.fit_transform(texts), expected, rtol=1e-5, atol=1e-6)
    assert transformer.transform([]).shape == (0, 32)


def test_clones_and_pickles_are_as_good(run_folder, smiles):
    transformer = ChemGPTEmbedding(run_folder, pooling="last", workers=1)
    first = transformer.fit(smiles[:5]).transform(smiles[:5])
    copy = clone(transformer)
    assert copy is not transformer and copy.get_params() == transformer.get_params()
    assert np.array_equal(copy.transform(smiles[:5]), first)
    frozen = pickle.dumps(transformer)
    assert len(frozen) < 2000  # not the weights, which are in the folder
    assert np.array_equal(pickle.loads(frozen).transform(smiles[:5]), first)
    assert not np.array_equal(copy.set_params(pooling="mean").transform(smiles[:5]), first)
    with pytest.raises(ValueError, match="nowhere"):  # not the model that it read before
        copy.set_params(model="nowhere").transform(smiles[:5])


def test_a_search_chooses_the_pooling(run_folder, smiles, logp):
    pipeline = make_pipeline(ChemGPTEmbedding(run_folder), StandardScaler(), Ridge())
    names = {"chemgptembedding__pooling": ["mean", "last"], "ridge__alpha": [1.0, 10.0]}
    search = GridSearchCV(pipeline, names, cv=2, error_score="raise").fit(smiles[:50], logp[:50])
    scores = search.cv_results_["mean_test_score"]
    assert len(scores) == 4 and len(set(scores.round(6))) == 4 and search.predict(smiles[:3]).shape == (3,)


def test_columns_have_names(run_folder, smiles):
    transformer = ChemGPTEmbedding(run_folder).fit(smiles)
    names = transformer.get_feature_names_out()
    assert names[0] == "chemgptembedding0" and len(names) == 32
    columns = ColumnTransformer([("text", ChemGPTEmbedding(run_folder), 0), ("rest", StandardScaler(), [1])])
    table = np.array([[one, len(one)] for one in smiles[:6]], object)
    assert columns.fit_transform(table).shape == (6, 33)
    assert list(columns.get_feature_names_out())[31:] == ["text__chemgptembedding31", "rest__x1"]


def test_molecules_that_cannot_be_embedded(run_folder):
    texts = ["CCO", "C1CC", "C[Pt]C"]
    with pytest.raises(ValueError, match=r"row 1 \(C1CC\) cannot be embedded: RDKit cannot parse .*; 1 others neither"):
        ChemGPTEmbedding(run_folder).transform(texts)
    values = ChemGPTEmbedding(run_folder, invalid="nan").transform(texts)
    assert np.isnan(values).all(1).tolist() == [False, True, True]


def test_bad_parameters_are_refused_by_fit(run_folder, chemgpt):
    for wrong, words in (
        (dict(model=chemgpt), "a ChemGPT needs the tokenizer"),
        (dict(model=run_folder, invalid="skip"), "invalid='skip': choose one of error, nan"),
        (dict(model=run_folder, pooling="median"), "pooling='median'"),
    ):
        with pytest.raises(ValueError, match=words):
            ChemGPTEmbedding(**wrong).fit(["CCO"])
    with pytest.raises(ValueError, match="give a list of texts"):
        ChemGPTEmbedding(run_folder).transform("CCO")
    with pytest.raises(ValueError, match=r"X has shape \[2, 2\]"):
        ChemGPTEmbedding(run_folder).transform([["C", "C"], ["C", "C"]])


def test_scikit_learn_is_loaded_for_the_class_alone():
    code = "import sys, ipu_chem.embedding.transformer as t; print('sklearn' in sys.modules)\n"
    code += "sys.modules['sklearn.base'] = None\n"
    code += "try:\n    t.ChemGPTEmbedding\nexcept ValueError as error:\n    print(error)\n"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[0] == "False" and "pip install scikit-learn" in result.stdout
