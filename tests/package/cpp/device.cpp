/* Compiles if SPACE is the host's memory only. */
#include <libemulator.hpp>

#include "views.hpp"

int main()
{
    double x[7] = {}, y[2] = {};
    const View<double, Left, SPACE> inputs(x, 1, 7), outputs(y, 1, 2);
    return libemulator::Model().infer(libemulator::by_sample(inputs), libemulator::by_sample(outputs)) == EMU_OK;
}
