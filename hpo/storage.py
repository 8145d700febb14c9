"""A user's own Optuna storage (`--storage URL`) as a place for the finished trials.

Databases go through Optuna's `RDBStorage`, whose tables are filled in batches: adding a trial with a learning curve
through its public way costs 50 to 100 ms of CPU (a query for every number of the curve), a batch 1 to 3 ms a trial.
`grpc://host:port` is Optuna's gRPC proxy.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from hpo.errors import SearchError

# Module of each driver that SQLAlchemy takes, with what to install; the default driver of a database has no "+".
_DRIVERS = {
    "sqlite": ("sqlite3", "Python with sqlite3"),
    "postgresql": ("psycopg2", "psycopg2-binary, or psycopg[binary] with postgresql+psycopg://"),
    "postgresql+psycopg2": ("psycopg2", "psycopg2-binary"),
    "postgresql+psycopg": ("psycopg", "psycopg[binary]"),
    "mysql": ("MySQLdb", "mysqlclient, or PyMySQL with mysql+pymysql://"),
    "mysql+pymysql": ("pymysql", "PyMySQL"),
    "mysql+mysqldb": ("MySQLdb", "mysqlclient"),
    "grpc": ("grpc", "grpcio"),
}
_CONNECT_S = 10
_IDENTITY = "libemulator_search"


def check_storage(url: str) -> None:
    """See that a storage can be used at all; whether it answers shows later, and does no harm to a search.

    Raises
    ------
    SearchError
        The URL is none, or its driver is not installed.
    """
    try:
        parts = urlsplit(url)
        grpc_without_port = parts.scheme == "grpc" and (not parts.hostname or parts.port is None)
    except ValueError as error:
        raise SearchError(f"--storage {shown(url)}: {error}") from None
    if parts.scheme not in _DRIVERS:
        raise SearchError(
            f"--storage {shown(url)}: unknown kind {parts.scheme or url!r}; expected sqlite:///file.db, "
            "postgresql://user@host/database, mysql+pymysql://user@host/database or grpc://host:port"
        )
    if grpc_without_port:
        raise SearchError(f"--storage {shown(url)}: expected grpc://host:port")
    module, install = _DRIVERS[parts.scheme]
    if parts.scheme == "grpc" and importlib.util.find_spec("optuna.storages._grpc") is None:
        raise SearchError(f"--storage {shown(url)}: Optuna's gRPC proxy came with Optuna 4.2, which is not installed")
    if importlib.util.find_spec(module) is None:
        raise SearchError(f"--storage {shown(url)}: the Python module {module} is missing; install {install}")


def shown(url: str) -> str:
    """The URL without its password."""
    user, at, rest = url.rpartition("@")
    scheme, slashes, name = user.partition("://")
    return f"{scheme}{slashes}{name.partition(':')[0]}{at}{rest}" if at else url


def identity(description: Mapping) -> str:
    """What tells one search from another of the same name: when it was begun, on which data, with which seed."""
    told = [description["created"], description["data"]["checksum"], description["data"]["seed"]]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


class Storage:
    """The two studies in the user's storage: `open`, then `add` any number of times; both may raise anything that a
    lost connection raises.

    Parameters
    ----------
    url : str
    names : dict of int to str
        Name of the study of each step. If the storage has a study of that name from another search, the names get
        the search's identity appended.
    identity : str
    """

    def __init__(self, url: str, names: Mapping[int, str], identity: str):
        self._url, self._identity = url, identity
        self.names = dict(names)
        self._counts: dict[int, int] = {}

    def open(self, values: Mapping) -> dict[int, set[int]]:
        """Connect (again); trials of each step that are there, and only those are never added."""
        import optuna

        self._storage = _connect(self._url)
        studies = {}
        for step, name in list(self.names.items()):
            study = self._study(optuna, name)
            if study.user_attrs.get(_IDENTITY) != self._identity:
                self.names[step] = f"{name}-{self._identity[:6]}"
                study = self._study(optuna, self.names[step])
            studies[step] = study
        self._ids = {step: study._study_id for step, study in studies.items()}
        present: dict[int, set[int]] = {}
        for step, study in studies.items():
            trials = study.get_trials(deepcopy=False)
            self._counts[step] = len(trials)
            present[step] = {t.user_attrs["trial"] for t in trials if "trial" in t.user_attrs}
        return present

    def _study(self, optuna, name: str):
        try:
            study = optuna.create_study(storage=self._storage, study_name=name, direction="minimize")
        except optuna.exceptions.DuplicatedStudyError:
            return optuna.load_study(storage=self._storage, study_name=name)
        study.set_user_attr(_IDENTITY, self._identity)
        return study

    def add(self, step: int, trials: Sequence) -> None:
        """Add finished trials; all of them, or none if a database fails."""
        if self._url.startswith("grpc:"):
            for trial in trials:
                self._storage.create_new_trial(self._ids[step], trial)
        else:
            _insert(self._storage, self._ids[step], trials, self._counts[step])
            self._counts[step] += len(trials)


def _connect(url: str):
    parts = urlsplit(url)
    if parts.scheme == "grpc":
        from optuna.exceptions import ExperimentalWarning
        from optuna.storages import GrpcStorageProxy

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            proxy = GrpcStorageProxy(host=parts.hostname, port=parts.port)
        proxy.wait_server_ready(timeout=_CONNECT_S)
        return proxy
    from optuna.storages import RDBStorage

    arguments = {"timeout": _CONNECT_S} if parts.scheme == "sqlite" else {"connect_timeout": _CONNECT_S}
    return RDBStorage(url, engine_kwargs={"connect_args": arguments, "pool_pre_ping": True})


def _insert(storage, study_id: int, trials: Sequence, count: int) -> None:
    """Rows of finished trials in one transaction: what `RDBStorage.create_new_trial` writes, without its queries.

    Raises
    ------
    ConnectionError
        The study has not `count` trials: somebody else writes to it.
    """
    from optuna.distributions import distribution_to_json
    from optuna.storages._rdb import models
    from sqlalchemy import func, insert, select
    from sqlalchemy.orm import Session

    with Session(storage.engine) as session, session.begin():
        models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)  # numbers are given one at a time
        found = session.scalar(select(func.count()).where(models.TrialModel.study_id == study_id))
        if found != count:
            raise ConnectionError(f"the study has {found} trials where {count} were expected")
        rows = [
            models.TrialModel(
                study_id=study_id,
                number=count + k,
                state=t.state,
                datetime_start=t.datetime_start,
                datetime_complete=t.datetime_complete,
            )
            for k, t in enumerate(trials)
        ]
        session.add_all(rows)
        session.flush()
        values, params, curves, attributes = [], [], [], []
        for row, t in zip(rows, trials, strict=True):
            own = {"trial_id": row.trial_id}
            if t.value is not None:
                stored, kind = models.TrialValueModel.value_to_stored_repr(t.value)
                values.append(own | {"objective": 0, "value": stored, "value_type": kind})
            for name, value in t.params.items():
                distribution = t.distributions[name]
                told = {"param_name": name, "param_value": distribution.to_internal_repr(value)}
                params.append(own | told | {"distribution_json": distribution_to_json(distribution)})
            for step, value in t.intermediate_values.items():
                stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
                curves.append(own | {"step": step, "intermediate_value": stored, "intermediate_value_type": kind})
            attributes += [own | {"key": k, "value_json": json.dumps(v)} for k, v in t.user_attrs.items()]
        for model, found in (
            (models.TrialValueModel, values),
            (models.TrialParamModel, params),
            (models.TrialIntermediateValueModel, curves),
            (models.TrialUserAttributeModel, attributes),
        ):
            if found:
                session.execute(insert(model), found)
