from nvflare.apis.analytix import AnalyticsData
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.widgets.streaming import AnalyticsReceiver


class CountingReceiver(AnalyticsReceiver):
    def __init__(self, events=None):
        super().__init__(events=events)
        self.count = 0

    def initialize(self, fl_ctx: FLContext):
        self.count = 0

    def save(self, fl_ctx: FLContext, shareable: Shareable, record_origin: str):
        data = AnalyticsData.from_dxo(from_shareable(shareable))
        self.count += data is not None

    def finalize(self, fl_ctx: FLContext):
        print(self.count)
