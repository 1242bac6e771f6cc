import numpy as np

import nvflare.client as flare
from nvflare.apis.fl_constant import FLMetaKey

flare.init()
while flare.is_running():
    input_model = flare.receive()
    print(f"round {input_model.current_round} at {flare.get_site_name()}: {flare.get_job_id()}")
    params = {}
    for name, value in input_model.params.items():
        assert isinstance(value, np.ndarray), type(value)
        params[name] = value + (1.0 if flare.get_site_name() == "site-1" else 3.0)
    weight = 1 if flare.get_site_name() == "site-1" else 3
    flare.send(
        flare.FLModel(
            params=params,
            params_type=flare.ParamsType.FULL,
            metrics={"mean": float(np.mean(params["weight"]))},
            meta={FLMetaKey.NUM_STEPS_CURRENT_ROUND: weight},
        )
    )
